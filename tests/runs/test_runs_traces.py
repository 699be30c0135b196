"""Traces in this process: of the same chains that a run's samples are of."""

import numpy as np
import pytest
import torch

from raygen.config import SampleConfig
from raygen.errors import ScoreError
from raygen.hmc import ARVIZ_DIMS
from raygen.networks import NetworkSettings, Node, load_network
from raygen.runs import plan_units, trace_nodes
from raygen.sampling import SamplingSettings, UnitSampler
from raygen.stages import trace

LENET = load_network(NetworkSettings(weights="random"))
FEW = SamplingSettings(steps=2, warm_up=6, chains=3, draws=4, thin=2, sigma=1.0, tilt=3.0, batch=6, step_size=0.1)
NODES = (Node("ip2", 4), Node("ip2", 1), Node("conv1", 2), Node("ip2", 7))


def test_the_traces_are_those_of_the_samples():
    groups = trace_nodes(LENET, NODES, FEW)
    assert list(groups) == ["ip2:4", "ip2:1", "ip2:7", "conv1:2"]
    sampler = UnitSampler(LENET, FEW, None, torch.device("cpu"))
    for unit in plan_units(NODES, chains=3, batch=6):
        for row in sampler.sample(unit).to_pylist():
            found = groups[row["node"]]
            draw = row["chain"], 2 * row["draw"] + 1
            assert found["posterior"]["score"][draw] == np.float32(row["score"])
            assert found["sample_stats"]["lp"][draw] == -row["potential"]
            assert found["sample_stats"]["step_size"][draw] == np.float32(row["step_size"])
            rates = found["sample_stats"]["acceptance_rate"][row["chain"]]
            assert rates.mean() == pytest.approx(row["acceptance_rate"])


def test_every_trajectory_after_warm_up_is_a_draw_with_its_steps():
    groups = trace_nodes(LENET, NODES[:1], FEW)["ip2:4"]
    assert groups["posterior"]["score"].shape == (3, 8)
    assert (groups["sample_stats"]["n_steps"] == 2).all()
    # Two steps make the angle, though more are allowed; and where all are wanted, all are made.
    for settings, steps in (({"steps": 8, "angle": 0.2}, 2), ({"steps": 3, "trajectory": "steps"}, 3)):
        groups = trace_nodes(LENET, NODES[:1], FEW.model_copy(update=settings))["ip2:4"]
        assert (groups["sample_stats"]["n_steps"] == steps).all()


def test_a_profile_reaches_the_traces():
    groups = trace_nodes(LENET, NODES[:1], FEW, profile={"ip2": {"step_size": 0.125}})["ip2:4"]
    assert (groups["sample_stats"]["step_size"] == 0.125).all()


def test_a_command_s_configuration_gives_its_traces_and_writes_nothing(tmp_path):
    out = tmp_path / "run"
    settings = FEW.model_dump(exclude_unset=True)
    config = SampleConfig(weights="random", nodes="ip2:4 ip2:1", out=str(out), **settings)
    groups = trace(config)
    own = trace_nodes(LENET, NODES[:2], FEW)
    assert set(groups) == set(own)
    for node, found in groups.items():
        np.testing.assert_array_equal(found["posterior"]["score"], own[node]["posterior"]["score"])
    assert not out.exists()


def test_arviz_reads_a_nodes_trace():
    arviz_base = pytest.importorskip("arviz_base")
    tree = arviz_base.from_dict(trace_nodes(LENET, NODES[:1], FEW)["ip2:4"], dims=dict(ARVIZ_DIMS))
    assert dict(tree["posterior"]["score"].sizes) == {"chain": 3, "draw": 8}


def test_a_node_that_cannot_be_traced_is_named():
    network = load_network(NetworkSettings(weights="random"))
    with torch.no_grad():
        network.module.ip2.weight[1] = torch.nan
    with pytest.raises(ScoreError, match=r"^node ip2:1: "):
        trace_nodes(network, NODES, FEW)
