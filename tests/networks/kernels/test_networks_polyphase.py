import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from raygen.networks import NetworkSettings, NodeScores, cut_network, load_network
from raygen.networks.kernels.polyphase import PolyphaseConv2d, with_polyphase_gradients

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02}


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw):
    kernel, stride = draw(pairs(1, 6)), draw(pairs(1, 5))
    padding = draw(st.one_of(pairs(0, 4), st.just("valid"), *([st.just("same")] if stride == (1, 1) else [])))
    pad = padding if isinstance(padding, tuple) else (0, 0)
    size = [draw(st.integers(max(kernel[axis] - 2 * pad[axis], 1), 17)) for axis in (0, 1)]
    channels, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    torch.manual_seed(draw(st.integers(0, 9)))
    layer = nn.Conv2d(channels, outputs, kernel, stride=stride, padding=padding, bias=draw(st.booleans()))
    return layer.requires_grad_(False), torch.randn(draw(st.integers(1, 3)), channels, *size)


def gradients(layer, x):
    x = x.requires_grad_()
    y = layer(x)
    # Numbers that bfloat16 has too.
    upstream = torch.randint(-8, 9, y.shape, generator=torch.Generator().manual_seed(0)).to(y.dtype)
    return y.detach(), torch.autograd.grad(y, x, upstream)[0], upstream


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=150, deadline=None)
@given(convolutions(), st.sampled_from(list(BOUNDS)), st.booleans())
def test_forward_and_gradient_are_the_librarys_to_round_off(drawn, dtype, channels_last):
    layer, x = drawn
    memory = torch.channels_last if channels_last else torch.contiguous_format
    layer = layer.to(dtype).to(memory_format=memory)
    x = x.to(dtype).contiguous(memory_format=memory)
    own = with_polyphase_gradients(layer).to(memory_format=memory)
    assert isinstance(own, PolyphaseConv2d)
    found, gradient, upstream = gradients(own, x.clone())
    # oneDNN's own forward (torch 2.15, Zen 4) is wrong in float32 for one channel and a single column of results, if
    # strides are 1 down and more across; the gradient is compared in float64, which it has no part in.
    assert torch.equal(found, layer(x)) or (layer.in_channels == 1 and found.shape[3] == 1 < layer.stride[1])
    _, wanted, _ = gradients(layer.double().to(memory_format=torch.contiguous_format), x.double().contiguous())
    scale = max(float(wanted.abs().max()), 1e-3)
    assert gradient.dtype == dtype and gradient.shape == x.shape
    assert float((gradient - wanted).abs().max()) <= BOUNDS[dtype] * scale
    assert float((own.input_gradient(upstream, x.shape) - wanted).abs().max()) <= BOUNDS[dtype] * scale


def test_a_gradient_is_the_same_each_time_bit_for_bit():
    own = with_polyphase_gradients(nn.Conv2d(1, 20, 5)).to(torch.bfloat16)
    x = torch.randn(8, 1, 28, 28, dtype=torch.bfloat16)
    assert torch.equal(gradients(own, x.clone())[1], gradients(own, x.clone())[1])


def test_a_gradient_cannot_be_differentiated_again():
    own = with_polyphase_gradients(nn.Conv2d(1, 2, 3))
    x = torch.randn(1, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(own(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


class Scaled(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 2, 3),
        nn.Conv2d(3, 3, 3, groups=3),
        nn.Conv2d(3, 2, 3, dilation=2),
        nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(3, 2, 3),
        Scaled(3, 2, 3),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 2, 3)),
        nn.Linear(3, 2),
    ],
)
def test_other_layers_stay_as_they_are(layer):
    module = nn.Sequential(layer)
    assert with_polyphase_gradients(module) is module


def test_the_module_given_is_not_changed():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    before = copy.deepcopy(module)
    x = torch.randn(2, 3, 9, 9)
    other = with_polyphase_gradients(module)
    assert [type(layer) for layer in module] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert [type(layer) for layer in other] == [PolyphaseConv2d, nn.ReLU, nn.Conv2d]
    assert torch.equal(other(x), before(x)) and torch.equal(module(x), before(x))
    assert all(value.requires_grad for value in module.parameters())


@pytest.mark.parametrize("layer", ["conv1", "conv2", "ip2"])
def test_a_cuts_own_module_keeps_the_librarys_gradient_and_the_scores_agree_with_it(layer):
    cut = cut_network(load_network(NetworkSettings(weights="random")), layer, crop=False)
    scores = NodeScores(cut, torch.arange(6), None)
    x = torch.randn(6, *cut.input_shape).requires_grad_()
    own = torch.autograd.grad(scores.responses(x).sum(), x)[0]
    response = cut.module(x)
    centre = response if response.ndim == 2 else response[:, :, response.shape[2] // 2, response.shape[3] // 2]
    torch.testing.assert_close(own, torch.autograd.grad(centre.sum(), x)[0], rtol=1e-4, atol=1e-5)
    assert not any(isinstance(part, PolyphaseConv2d) for part in cut.module.modules())
    if layer != "conv1":
        assert any(isinstance(part, PolyphaseConv2d) for part in scores.body.modules())
