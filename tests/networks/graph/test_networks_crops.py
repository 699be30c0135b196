"""Crops of networks whose paths branch: exact inside, whatever the paths."""

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_blocks import Block, blocks
from torch import nn

from raygen.networks import NetworkSettings, cut_network, list_layers, load_network, wrap_network


def double(network):
    return dataclasses.replace(network, module=copy.deepcopy(network.module).double())


def random_network(name, **settings):
    return double(load_network(NetworkSettings(network=name, weights="random", **settings)))


def normal(shape, seed=0):
    return torch.randn(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seen_by_hook(network, layer, x):
    """What the whole network itself puts out at the layer, at its first run."""
    seen = []
    hook = network.module.get_submodule(layer).register_forward_hook(lambda _, i, output: seen.append(output.clone()))
    with torch.no_grad():
        network.module(x)
    hook.remove()
    return seen[0]


def assert_exact(network, layer, response, crop_corner):
    """The cropped response is the whole network's at the position that the cut names, and only its pixels matter."""
    cut = cut_network(network, layer)
    assert cut.cropped and cut.map_size == (1, 1)
    known = next(known for known in list_layers(network) if known.name == layer)
    assert max(cut.input_shape[1:]) == known.receptive_field
    x = normal(network.input_shape)
    assert cut.origin == crop_corner(network, cut)
    (top, left), (height, width) = cut.origin, cut.input_shape[1:]
    part = x[:, :, top : top + height, left : left + width]
    want = response(x)[:, :, cut.position[0], cut.position[1]]
    torch.testing.assert_close(cut.module(part)[:, :, 0, 0], want, rtol=1e-9, atol=1e-11 * float(want.abs().max()))
    # As far as the response sees, its gradient in the crop is the gradient in the whole image, and outside that is 0.
    x.requires_grad_()
    (whole,) = torch.autograd.grad(response(x)[:, :, cut.position[0], cut.position[1]].sum(), x)
    part = part.detach().requires_grad_()
    (cropped,) = torch.autograd.grad(cut.module(part).sum(), part)
    inside = whole[:, :, top : top + height, left : left + width]
    torch.testing.assert_close(inside, cropped, rtol=1e-8, atol=1e-10 * float(whole.abs().max()))
    whole[:, :, top : top + height, left : left + width] = 0
    assert not whole.any()


BRANCHED = [
    ("squeezenet1_0", "features.3.expand3x3", {}),
    ("squeezenet1_0", "features.9", {}),
    ("squeezenet1_0", "features.12.expand3x3", {}),
    ("resnet18", "layer1.1.bn2", {"input_size": 160}),
    ("resnet18", "layer2.0.downsample.0", {"input_size": 160}),
    ("googlenet", "inception3b.branch4.1.conv", {"input_size": 128}),
    ("densenet121", "features.denseblock1.denselayer3.conv2", {"input_size": 96}),
    ("shufflenet_v2_x0_5", "stage3.0.branch2.5", {"input_size": 128}),
    ("mobilenet_v2", "features.6.conv.2", {"input_size": 128}),
    ("regnet_x_400mf", "trunk_output.block3.block3-0.f.b.0", {"input_size": 128}),
    ("convnext_tiny", "features.2.1", {"input_size": 112}),
]


@pytest.mark.parametrize(("name", "layer", "more"), BRANCHED)
def test_a_crop_of_a_branched_network_is_exact(name, layer, more, crop_corner):
    network = random_network(name, **more)
    whole = cut_network(network, layer, crop=False).module
    assert_exact(network, layer, whole, crop_corner)
    x = normal(network.input_shape)
    torch.testing.assert_close(whole(x), seen_by_hook(network, layer, x))


@settings(max_examples=25, deadline=None)
@given(
    blocks(),
    st.integers(64, 75),
)
def test_whatever_the_blocks_a_crop_is_exact_or_there_is_none(crop_corner, drawn, side):
    torch.manual_seed(0)
    module = nn.Sequential(*(Block(*block) for block in drawn), nn.Conv2d(4, 3, 3, padding=1))
    network = double(wrap_network(module, name="random", input_shape=(4, side, side)))
    layer = str(len(drawn))
    cut = cut_network(network, layer)
    whole = cut_network(network, layer, crop=False).module
    x = normal(network.input_shape)
    torch.testing.assert_close(whole(x), module.double().eval()(x))
    if cut.cropped:
        assert_exact(network, layer, whole, crop_corner)
    else:
        known = next(known for known in list_layers(network) if known.name == layer)
        assert known.receptive_field is None or known.receptive_field > side - known.stride


class Given(nn.Module):
    """A reshaping to numbers that hold for the whole map alone."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        return self.second(self.first(x).view(-1, 2, 2, 10, 10).reshape(-1, 4, 10, 10))


class Rolled(Given):
    """A step that looks pointwise by its shapes and is not."""

    def forward(self, x):
        return self.second(self.first(x)[:, :, [9, *range(9)]])


class Normed(Given):
    """A norm that takes its statistics from the whole map, whatever the mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        return self.second(self.norm(self.first(x)))


@pytest.mark.parametrize("kind", [Given, Rolled, Normed])
def test_where_a_crop_would_not_be_exact_the_input_keeps_its_size(kind):
    network = double(wrap_network(kind(), name="given", input_shape=(1, 12, 12)))
    cut = cut_network(network, "second")
    assert not cut.cropped and cut.input_shape == (1, 12, 12)
    assert cut_network(network, "first").cropped
    x = normal(network.input_shape)
    torch.testing.assert_close(cut.module(x), network.module(x))


class Lying(nn.Module):
    """A view that is changed in place: its graph, cut, computes another value than the network."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = self.first(x)
        x[:, :2].relu_()
        return self.second(x)


def test_a_graph_that_computes_another_value_is_not_used():
    network = double(wrap_network(Lying(), name="lying", input_shape=(1, 12, 12)))
    x = normal(network.input_shape)
    cut = cut_network(network, "second")
    assert not cut.cropped
    torch.testing.assert_close(cut.module(x), seen_by_hook(network, "second", x))


def test_cutting_leaves_no_hook_and_no_trace_on_a_network_of_blocks():
    network = random_network("resnet18", input_size=64)
    before = {name: dict(vars(part)) for name, part in network.module.named_modules()}
    for layer in ("layer1.0", "layer1.0.relu", "layer2.0.conv2", "fc"):
        cut_network(network, layer)
    for name, part in network.module.named_modules():
        assert not part._forward_hooks and not part._forward_pre_hooks and not part._backward_hooks
        assert set(vars(part)) == set(before[name])
        if isinstance(part, nn.Conv2d):
            assert part.padding == before[name]["padding"]
