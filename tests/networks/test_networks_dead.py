import pytest
import torch
from torch import nn

from raygen.networks import (
    NetworkSettings,
    Node,
    cut_for,
    dead_nodes,
    list_layers,
    load_network,
    parse_nodes,
    wrap_network,
)


class Sick(nn.Module):
    """Channel 0 sees nothing, 1 only the dead channel 2 of the layer before, 3 is never above 0, 4 is broken."""

    def __init__(self, bias):
        super().__init__()
        self.first, self.act, self.second = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)
        self.last = nn.ReLU6()
        with torch.no_grad():
            self.first.bias[2] = -1e3
            self.second.weight[0] = 0
            self.second.weight[1] = 0
            self.second.weight[1, 2] = 1
            self.second.bias[3] = -1e3
            self.second.bias[4] = bias

    def forward(self, x):
        return self.last(self.second(self.act(self.first(x))))


def sick(bias=torch.inf):
    torch.manual_seed(0)
    return wrap_network(Sick(bias), name="sick", input_shape=(2, 12, 12))


def found(text, count=6, crop=True, bias=torch.inf, **more):
    network = sick(bias)
    nodes = parse_nodes(text, network, list_layers(network))
    cut = cut_for(network, nodes[0], crop=crop)
    images = torch.randn(count, *cut.input_shape, generator=torch.Generator().manual_seed(1))
    return {str(node): reason for node, reason in dead_nodes(cut, nodes, images, **more).items()}


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 256])
def test_constant_and_broken_nodes_are_named_with_their_reasons(crop, batch):
    network = sick()
    bias = network.module.second.bias
    assert found("second:*", crop=crop, batch=batch) == {
        "second:0": f"constant: its score is {float(bias[0]):.4g} for all of 6 images",
        "second:1": f"constant: its score is {float(bias[1]):.4g} for all of 6 images",
        "second:4": "its score is not finite for 6 of 6 images",
    }


def test_a_unit_that_never_fires_is_dead_after_its_relu_and_not_before_it():
    assert "last:3" not in found("last:*")
    assert found("last:3@relu") == {"last:3@relu": "constant: its score is 0 for all of 6 images"}


def test_sums_and_means_are_looked_at_as_they_are_scored():
    assert list(found("second:[0-1] second:[0+2]", bias=0.0)) == ["second:[0-1]"]
    assert list(found("second:0@mean second:2@mean")) == ["second:0@mean"]


class Round(nn.Module):
    def forward(self, x):
        return torch.floor(x)


def test_a_score_in_steps_has_no_gradient():
    network = wrap_network(nn.Sequential(nn.Conv2d(1, 2, 1), Round()), name="steps", input_shape=(1, 4, 4))
    cut = cut_for(network, Node("1", 0))
    images = 5 * torch.randn(8, *cut.input_shape, generator=torch.Generator().manual_seed(1))
    dead = dead_nodes(cut, [Node("1", 0)], images)
    assert dead == {Node("1", 0): "dead: its score has no gradient at any of 8 images"}


def test_a_healthy_network_has_no_dead_node():
    network = load_network(NetworkSettings(weights="random"))
    for layer in list_layers(network):
        nodes = parse_nodes(layer.name, network, [layer])[:20]
        cut = cut_for(network, nodes[0])
        images = 3 * torch.randn(4, *cut.input_shape, generator=torch.Generator().manual_seed(1))
        assert dead_nodes(cut, nodes, images) == {}


def test_one_image_is_not_enough():
    with pytest.raises(ValueError, match="a constant score shows at two images"):
        found("second:2", count=1)
