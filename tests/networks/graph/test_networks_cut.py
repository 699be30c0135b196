import copy
import dataclasses
import functools
import pickle

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from raygen.errors import NodeError
from raygen.networks import NetworkSettings, cut_network, hash_weights, list_layers, load_network, wrap_network


def double(network):
    return dataclasses.replace(network, module=copy.deepcopy(network.module).double())


def random_network(name, **settings):
    return double(load_network(NetworkSettings(network=name, weights="random", **settings)))


def responses(network, layer, x, *, before=False):
    """What a hook on the whole network sees at the layer's first run."""
    seen = []
    module = network.module.get_submodule(layer)
    if before:
        handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    else:
        handle = module.register_forward_hook(lambda _, inputs, output: seen.append(output.clone()))
    with torch.no_grad():
        network.module(x)
    handle.remove()
    return seen[0]


def images(count, shape, seed=0):
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Odd(nn.Module):
    """Dilation, odd strides, padding of other kinds, functional pooling with padding, groups."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="reflect")
        self.second = nn.Conv2d(4, 4, (3, 5), dilation=(2, 1), padding="same", groups=2)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.act = nn.ReLU(inplace=True)
        self.third = nn.Conv2d(4, 6, 3, padding=1, bias=False)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 3, 1, padding=1)
        return self.third(self.act(self.pool(self.second(x))))


def odd_network():
    torch.manual_seed(0)
    return double(wrap_network(Odd(), name="odd", input_shape=(2, 64, 64)))


@functools.cache
def vgg_network():
    torch.manual_seed(0)
    module = torchvision.models.vgg11(weights=None, init_weights=False)
    module.classifier = nn.Linear(512 * 7 * 7, 2)
    return double(wrap_network(module, name="vgg11", input_shape=(3, 96, 96)))


CROPS = [
    ("lenet", "conv1", (5, 5)),
    ("lenet", "pool1", (6, 6)),
    ("lenet", "conv2", (14, 14)),
    ("lenet", "pool2", (16, 16)),
    ("alexnet", "features.0", (11, 11)),
    ("alexnet", "features.3", (51, 51)),
    ("alexnet", "features.6", (99, 99)),
    ("alexnet", "features.9", (131, 131)),
    ("vgg11", "features.3", (8, 8)),
    ("vgg11", "features.8", (26, 26)),
    ("vgg11", "features.12", (46, 46)),
    ("squeezenet1_1", "features.3.squeeze", (7, 7)),
    ("odd", "first", (3, 3)),
    ("odd", "second", (15, 15)),
    ("odd", "third", (27, 27)),
]


@pytest.mark.parametrize(("name", "layer", "size"), CROPS)
def test_a_cropped_response_equals_the_interior_response_of_the_whole_network(name, layer, size):
    network = {"odd": odd_network, "vgg11": vgg_network}.get(name, lambda: random_network(name))()
    known = next(known for known in list_layers(network) if known.name == layer)
    cut = cut_network(network, layer)
    assert cut.cropped and cut.map_size == (1, 1) and cut.input_shape == (network.input_shape[0], *size)
    assert known.receptive_field == max(size)
    # Outside the crop the whole input differs at random: nothing of it may matter.
    whole = images(1, network.input_shape)
    row, column = (side // 2 for side in known.map_size)
    seen = responses(network, layer, whole, before=known.kind == "relu")[0, :, row, column]
    top, left = first_pixels(network, layer, row, column)
    crop = whole[:, :, top : top + size[0], left : left + size[1]]
    torch.testing.assert_close(cut.module(crop)[0, :, 0, 0], seen, rtol=1e-10, atol=1e-12)


def first_pixels(network, layer, row, column):
    """Return top and left of the pixels that a response depends on, from gradients."""
    module = cut_network(network, layer, crop=False).module
    total = torch.zeros(network.input_shape[1:], dtype=torch.float64)
    for seed in range(3):
        x = images(1, network.input_shape, seed=seed).requires_grad_()
        (gradient,) = torch.autograd.grad(module(x)[0, :, row, column].square().sum(), x)
        total += gradient.abs().sum((0, 1))
    return int(total.sum(1).nonzero().min()), int(total.sum(0).nonzero().min())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("lenet", "ip1"),
        ("lenet", "ip2"),
        ("squeezenet1_1", "classifier.1"),
        ("resnet18", "layer3.1.bn2"),
        ("resnet18", "fc"),
        ("googlenet", "inception4a.branch2.1.conv"),
        ("densenet121", "features.denseblock2.denselayer3.conv2"),
        ("mobilenet_v3_small", "features.4.block.2"),
    ],
)
def test_layers_that_see_the_whole_input_or_hold_no_map_keep_the_full_size(name, layer):
    network = random_network(name, **({} if name == "lenet" else {"input_size": 96}))
    cut = cut_network(network, layer)
    assert not cut.cropped and cut.input_shape == network.input_shape
    x = images(2, network.input_shape)
    torch.testing.assert_close(cut.module(x), responses(network, layer, x))


def test_of_a_relu_the_response_is_its_input():
    network = random_network("alexnet")
    x = images(1, network.input_shape)
    for layer, before in (("features.1", "features.0"), ("classifier.5", "classifier.4")):
        cut = cut_network(network, layer, crop=False)
        torch.testing.assert_close(cut.module(x), responses(network, before, x))
        assert cut.module(x).min() < 0


def test_nothing_above_the_layer_is_kept():
    network = random_network("alexnet")
    names = {name.split(".")[0] for name, _ in cut_network(network, "features.3").module.named_parameters()}
    assert names == {"features"}
    assert len(list(cut_network(network, "features.3").module.parameters())) == 4


def test_cropping_and_cutting_leave_the_network_as_it_was():
    network = odd_network()
    module, x = network.module, images(2, network.input_shape)
    before, state = module(x), hash_weights(module.state_dict())
    for layer in ("first", "second", "third"):
        cut = cut_network(network, layer)
        with torch.no_grad():
            for parameter in cut.module.parameters():
                parameter.zero_()
    assert torch.equal(module(x), before) and hash_weights(module.state_dict()) == state
    assert module.first.padding == (1, 1) and module.first.padding_mode == "reflect"


def test_a_field_wider_than_the_input_keeps_the_full_size():
    network = random_network("alexnet", input_size=127)
    cut = cut_network(network, "features.8")
    assert not cut.cropped and cut.input_shape == (3, 127, 127) and cut.map_size == (7, 7)
    assert cut_network(network, "features.6").cropped


class Dynamic(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(3, 5, 3)
        self.never = nn.Conv2d(3, 5, 3)
        self.after = 0

    def forward(self, x):
        x = self.act(self.first(x))
        if x.sum() > 1e9:
            raise RuntimeError
        x = self.second(x)
        self.after += 1
        return x


@pytest.mark.parametrize(("layer", "like"), [("first", "first"), ("act", "first"), ("second", "second")])
def test_a_network_that_cannot_be_traced_stops_at_the_layer_without_a_hook_left(layer, like):
    network = double(wrap_network(Dynamic(), name="dynamic", input_shape=(1, 9, 9)))
    cut = cut_network(network, layer)
    x = images(4, network.input_shape).requires_grad_()
    torch.testing.assert_close(cut.module(x), responses(network, like, x.detach()))
    (gradient,) = torch.autograd.grad(cut.module(x).sum(), x)
    assert gradient.abs().sum() > 0
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in cut.module.modules())
    assert cut.module.network.after == 1  # it has not run to its end since the listing, before it was copied
    with pytest.raises(RuntimeError):
        cut.module(x.reshape(2, 2, 9, 9))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in cut.module.modules())


def test_an_unknown_layer_is_answered_with_the_closest():
    with pytest.raises(NodeError, match=r"network lenet: unknown layer 'conv3'; did you mean conv2"):
        cut_network(random_network("lenet"), "conv3")


@pytest.mark.parametrize("layer", ["conv2", "ip1"])
def test_a_cut_travels_between_processes(layer):
    cut = cut_network(random_network("lenet"), layer)
    there = pickle.loads(pickle.dumps(cut))
    x = images(2, cut.input_shape)
    assert torch.equal(there.module(x), cut.module(x))
