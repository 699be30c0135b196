"""One door to what makes a network fast, to be trained or frozen."""

import copy

import torch
from torch import fx, nn

from raygen.networks import speed_up
from raygen.networks.kernels.polyphase import PolyphaseConv2d
from raygen.networks.kernels.pooling import PairedMaxPool2d


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(4, 3, 3))


def kinds(module):
    return [type(part) for part in module.modules() if not list(part.children())]


def test_what_is_to_be_trained_is_changed_in_place_and_keeps_its_parameters():
    module = network()
    parameters = dict(module.named_parameters())
    assert speed_up(module) is module
    assert kinds(module) == [nn.Conv2d, nn.ReLU, PairedMaxPool2d, nn.Conv2d]
    assert all(value is parameters[name] for name, value in module.named_parameters())


def test_what_is_frozen_is_copied_and_has_the_same_values_and_gradients_to_round_off():
    module = fx.symbolic_trace(network().requires_grad_(False))
    before, code = copy.deepcopy(module), module.code
    fast = speed_up(module, frozen=True)
    assert kinds(module) == kinds(before) and module.code == code != fast.code
    assert {PolyphaseConv2d, PairedMaxPool2d} <= set(kinds(fast))
    x = torch.randn(2, 1, 13, 13).requires_grad_()
    got, want = fast(x), before(x)
    assert torch.equal(got, want)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), x)[0] for value in (got, want)))
