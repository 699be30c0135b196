"""What a run is estimated to cost: its gradients beside those that it spends. No time is asserted."""

import pytest
import torch

from raygen.networks import NetworkSettings, list_layers, load_network, parse_nodes
from raygen.runs import begin_run, estimate_cost, sample_here
from raygen.sampling import SamplingSettings, UnitSampler

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    return load_network(NetworkSettings.parse({"weights": "random"}, where="test"))


def estimate(network, folder, nodes, **changes):
    """Return the estimate of a run, the run, and its settings."""
    asked = {"chains": 4, "batch": 8, "draws": 2, "thin": 4, "warm_up": 16, **changes}
    settings = SamplingSettings.parse(asked, where="test")
    parsed = parse_nodes(nodes, network, list_layers(network))
    run = begin_run(str(folder), network, parsed, settings, images=None, about={})
    return estimate_cost(run, network, settings, None, CPU, {}), run, settings


def spent(network, run, settings):
    return sample_here(run, UnitSampler(network, settings, None, CPU, {}), lambda _: None).made.gradients


def test_trajectories_of_fixed_steps_are_counted_exactly(network, tmp_path):
    report, run, settings = estimate(network, tmp_path, "conv2:0-3 ip2:0", trajectory="steps", steps=3)
    assert [cost.layer for cost in report.layers] == ["conv2", "ip2"]
    assert report.total.gradients - 5 * 16 == spent(network, run, settings) == 5 * 4 * (16 + 8) * 3
    assert report.total.gradients == report.total.most_gradients


def test_steps_that_warm_up_finds_are_estimated_by_a_warm_up(network, tmp_path):
    report, run, settings = estimate(network, tmp_path, "conv2:0-3", chains=8, warm_up=40, draws=5)
    total = report.total
    assert 0.7 < (total.gradients - 4 * 16) / spent(network, run, settings) < 1.4
    assert total.gradients < total.most_gradients


def test_every_cost_is_a_finite_number_and_the_memory_that_of_a_process(network, tmp_path):
    report, _, _ = estimate(network, tmp_path, "conv1:0-1", superchains=2, budget=64, warm_up=2)
    (cost,) = report.layers
    assert 0 < cost.unit_seconds <= cost.seconds < float("inf")
    assert 1e7 < cost.memory < 1e12
    assert cost.measured == 8, "the unit's own batch, since it is small"


def test_the_steps_to_modes_are_counted_exactly(network, tmp_path):
    asked = {"mode_steps": 7, "draws": 1, "thin": 1, "warm_up": 0}
    report, run, settings = estimate(network, tmp_path, "conv2:0-3 ip2:0", **asked)
    assert report.total.gradients - 5 * 16 == spent(network, run, settings) == 5 * 4 * 7
    assert report.total.gradients == report.total.most_gradients
    assert all(0 < cost.seconds < 1e4 and 1e7 < cost.memory < 1e12 for cost in report.layers)
    assert report.layers[0].measured == 8


def test_a_dead_node_is_not_what_is_measured(tmp_path):
    dead = load_network(NetworkSettings.parse({"weights": "random"}, where="test"))
    with torch.no_grad():
        dead.module.conv2.weight[0] = 0
    report, run, settings = estimate(dead, tmp_path, "conv2:0-1", trajectory="steps", steps=2)
    assert report.layers[0].seconds > 0
    assert spent(dead, run, settings) == 4 * (16 + 8) * 2, "of the other node alone"
