import math

import pytest
import torch
from torch import nn

from raygen.bench import NodesBenchSettings, bench_nodes
from raygen.bench.loops import gradient
from raygen.bench.nodes import WholeScores
from raygen.errors import SettingsError
from raygen.networks import NetworkSettings, NodeScores, cut_network, load_network, wrap_network

QUICK = {"rounds": 1, "seconds": 0.01, "threads": 1, "nodes": 3, "chains": 2, "packed": 4, "batch": 2}


@pytest.mark.parametrize("layer", ["0", "2", "5"])
def test_the_whole_network_has_the_same_gradients_as_the_cut_one(layer):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3, padding=1),
                           nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, 5))  # fmt: skip
    network = wrap_network(module, name="small", input_shape=(2, 8, 8))
    channels = torch.tensor([2, 0, 1])
    x = torch.randn(3, 2, 8, 8)
    whole = WholeScores(network.module, layer, channels)
    scores = NodeScores(cut_network(network, layer, crop=False), channels)
    torch.testing.assert_close(whole(x), scores(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient(whole, x), gradient(scores, x), rtol=1e-4, atol=1e-5)
    assert not any(part._forward_hooks for part in network.module.modules())


def test_the_whole_network_is_run_to_its_end():
    network = load_network(NetworkSettings(weights="random"))
    reached = []
    network.module.register_forward_hook(lambda module, inputs, output: reached.append(output.shape))
    WholeScores(network.module, "conv1", torch.tensor([4]))(torch.zeros(1, 1, 28, 28))
    assert reached == [(1, 10)]


def test_every_layer_has_its_speed_cut_and_whole_and_packed_and_one_by_one():
    results = list(bench_nodes(NodesBenchSettings(network="lenet", **QUICK)))
    cases = [found.case for found in results]
    assert [case.split(",")[0] for case in cases] == ["lenet conv1"] * 3 + ["lenet conv2"] * 3
    assert "cut to 5x5 px" in cases[0] and "cut to 14x14 px" in cases[3]
    assert "3 nodes of 2 chains, 4 chains a batch" in cases[1] and ", 6 chains a batch" in cases[2]
    assert all(math.isfinite(found.ratio) and min(found.value, found.baseline) > 0 for found in results)


def test_only_the_layers_asked_for_are_measured_and_all_nodes_in_one_batch_only_once():
    settings = NodesBenchSettings(network="lenet", layers=("ip1",), **{**QUICK, "packed": 128})
    cut, packed = (found.case for found in bench_nodes(settings))
    assert "ip1" in cut and "3 nodes of 2 chains, 6 chains a batch" in packed


def test_a_weight_file_for_several_networks_is_refused():
    with pytest.raises(SettingsError, match=r'weights w.pt for 2 networks; name its network, or give "random"'):
        next(bench_nodes(NodesBenchSettings(network="lenet,alexnet", weights="w.pt")))
