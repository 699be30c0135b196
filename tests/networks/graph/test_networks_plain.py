"""Layers that only look like torch's own: their scores are those of the untouched network, one image at a time."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raygen.networks import Node, cut_for, list_layers, score_nodes, wrap_network
from raygen.networks.graph.plain import is_plain

SIZE = 16


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class SizeDependent(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(F.pad(x, (x.shape[3] // 4, 1, 1, x.shape[2] // 4)), self.weight, self.bias, self.stride)


class Cosine(nn.Linear):
    def forward(self, x):
        return 16 * F.linear(F.normalize(x), F.normalize(self.weight))


class ShiftedReLU(nn.ReLU):
    def forward(self, x):
        return super().forward(x + 0.5) - 0.25


class Spatial(nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.first, self.second, self.mix = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), mix

    def forward(self, x):
        return self.second(self.mix(self.first(x))).mean((2, 3))


def chain(second, *, first=None):
    return nn.Sequential(first or nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), second, nn.AdaptiveAvgPool2d(1))


def hooked(name, register):
    module = chain(nn.Conv2d(4, 4, 3, padding=1))
    getattr(module.get_submodule(name), register)(
        (lambda _, x, y: 2 * y + 1) if register == "register_forward_hook" else lambda _, x: (2 * x[0] + 1,)
    )
    return module


def replaced():
    module = chain(nn.Conv2d(4, 4, 3, padding=1))
    layer = module[2]
    layer.forward = lambda x: 3 * F.conv2d(x, layer.weight, layer.bias, padding=1)
    return module


def weight_normed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch has a newer one; many networks hold this
        first = nn.utils.weight_norm(nn.Conv2d(3, 4, 3, padding=1))
    return chain(nn.Conv2d(4, 4, 3, padding=1), first=first)


CASES = {
    "standardised": (chain(Standardised(4, 4, 3, padding=1)), "2"),
    "size": (chain(SizeDependent(4, 4, 3)), "2"),
    "below": (chain(nn.Conv2d(4, 4, 3, padding=1), first=SizeDependent(3, 4, 3)), "2"),
    "cosine": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Cosine(4, 4)), "3"),
    "relu": (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), ShiftedReLU()), "1"),
    "hook": (hooked("2", "register_forward_hook"), "2"),
    "hook below": (hooked("0", "register_forward_hook"), "2"),
    "pre-hook": (hooked("2", "register_forward_pre_hook"), "2"),
    "hook of a container": (nn.Sequential(hooked("", "register_forward_pre_hook")), "0.2"),
    "replaced": (replaced(), "2"),
    "reflect": (chain(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), "2"),
    "circular": (chain(nn.Conv2d(4, 4, 3), first=nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")), "2"),
    "spectral": (chain(nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1))), "2"),
    "older weight norm": (weight_normed(), "2"),
    "own statistics": (chain(nn.InstanceNorm2d(4)), "2"),
    "largest channel": (Spatial(lambda x: x * x.max(1, keepdim=True)[0]), "second"),
    "turned": (Spatial(lambda x: x.transpose(2, 3)), "second"),
    "picked": (Spatial(lambda x: x[:, :, list(range(SIZE - 1, -1, -1))]), "second"),
    "flipped": (Spatial(lambda x: x.flip(3)), "second"),
    "rows": (Spatial(lambda x: x * x.mean(3, keepdim=True)), "second"),
    "halves": (Spatial(lambda x: torch.cat(x.chunk(2, 2)[::-1], 2)), "second"),
}  # fmt: skip


def alone(module, layer, x, channel, position):
    seen = []
    handle = module.get_submodule(layer).register_forward_hook(lambda _, inputs, output: seen.append(output.clone()))
    try:
        module(x[None].clone())
    finally:
        handle.remove()
    response = seen[0][0, channel]
    return response if position is None else response[position]


@pytest.mark.parametrize("position", [None, (2, 13)])
@pytest.mark.parametrize("case", CASES)
def test_the_score_and_its_gradient_are_those_of_the_untouched_network(case, position):
    module, layer = CASES[case]
    network = wrap_network(module, name="case", input_shape=(3, SIZE, SIZE))
    map_size = next(known.map_size for known in list_layers(network) if known.name == layer)
    position = position if map_size is not None else None
    nodes = [Node(layer, channel, position) for channel in range(3)]
    cut = cut_for(network, nodes[0])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, SIZE, SIZE, generator=generator)
    (top, left), (height, width) = cut.origin, cut.input_shape[1:]
    part = x[:, :, top : top + height, left : left + width].clone().requires_grad_()
    found = score_nodes(cut, nodes)(part)
    whole = x.clone().requires_grad_()
    where = position or cut.position or (None if map_size is None else (map_size[0] // 2, map_size[1] // 2))
    want = torch.stack([alone(network.module, layer, row, i, where) for i, row in enumerate(whole)])
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
    (got,), (gradient,) = torch.autograd.grad(found.sum(), part), torch.autograd.grad(want.sum(), whole)
    seen = gradient[:, :, top : top + height, left : left + width]
    torch.testing.assert_close(got, seen, rtol=1e-4, atol=1e-5)
    assert float(gradient.norm()) == pytest.approx(float(seen.norm()), rel=1e-5)  # nothing is seen outside the crop


def test_only_the_exact_layer_without_hooks_and_with_weights_of_its_own_is_plain():
    assert is_plain(nn.Conv2d(1, 1, 1), nn.Conv2d)
    assert is_plain(nn.Conv2d(1, 1, 1, bias=False), nn.Linear, nn.Conv2d)
    assert not is_plain(nn.Linear(1, 1), nn.Conv2d)
    assert not is_plain(None, nn.Conv2d)
    assert not is_plain(Standardised(1, 1, 1), nn.Conv2d)
    assert not is_plain(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1)), nn.Conv2d)
    for register in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
        layer = nn.Conv2d(1, 1, 1)
        getattr(layer, f"register_{register}")(lambda *_: None)
        assert not is_plain(layer, nn.Conv2d)
    layer = nn.Conv2d(1, 1, 1)
    layer._conv_forward = lambda *_: torch.zeros(1)
    assert not is_plain(layer, nn.Conv2d)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not is_plain(nn.Conv2d(1, 1, 1), nn.Conv2d)
    finally:
        handle.remove()
