"""Networks as people write them: what they compute is kept, and crops are taken where they can be."""

import math

import pytest
import torch
from test_networks_crops import assert_exact, double, normal
from torch import nn
from torch.nn import functional as F

from raygen.networks import cut_network, list_layers, wrap_network


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Basic(nn.Module):
    """A residual block of a CIFAR ResNet, whose shortcut is an empty Sequential or drops every second pixel."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            rest = (outputs - inputs) // 2
            self.shortcut = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, rest, rest), "constant", 0))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class Cifar(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.layer1 = nn.Sequential(Basic(4, 4, 1), Basic(4, 4, 1))
        self.layer2 = nn.Sequential(Basic(4, 8, 2))
        self.linear = nn.Linear(8, 10)

    def forward(self, x):
        out = self.layer2(self.layer1(F.relu(self.conv1(x))))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class Standardised(nn.Conv2d):
    """Weight standardisation: the weights are computed at each call."""

    def forward(self, x):
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight / (weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Scale(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(0.5, 2, channels)[:, None, None])

    def forward(self, x):
        return self.factor * x


class SameConv(nn.Conv2d):
    """TensorFlow's padding, more of it behind than before, from the size of what comes."""

    def forward(self, x):
        rows, columns = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0)
            for side, stride, kernel in zip(x.size()[-2:], self.stride, self.kernel_size, strict=True)
        )
        x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride)


class Backward(torch.autograd.Function):
    """The sign, with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() < 1)


class Sign(nn.Module):
    def forward(self, x):
        return Backward.apply(x)


class Signed(nn.Module):
    """A function of its own in a module that is made of others."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.conv2 = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.conv2(Backward.apply(self.conv1(x)))


class Detached(nn.Module):
    """A part whose gradient is left out: a graph would have it."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.conv2 = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        x = self.conv1(x)
        with torch.no_grad():
            largest = self.conv2(x).sigmoid()
        return x[:, :, 1:-1, 1:-1] * largest


class ByShape(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        if x.shape[2] > 8:
            x = F.avg_pool2d(x, 2)
        return self.conv(x)


class ByBatch(ByShape):
    """Goes another way with one image than with several."""

    def forward(self, x):
        return self.conv(x if x.shape[0] == 1 else x * 2)


class ByBatchLater(ByShape):
    def forward(self, x):
        several = min(x.size(0), 2) + x.size(2) * 0
        return self.conv(x * several if several > 1 else x)


class ByValue(ByShape):
    def forward(self, x):
        return self.conv(x if x.mean() > 0 else -x)


class ByPrecision(ByShape):
    def forward(self, x):
        return self.conv(x if x.dtype == torch.float64 and not x.is_cuda else -x)


class Sizes(nn.Module):
    """What can be asked of a shape: its length, a loop over it, an integer of it, a view of the same size."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3) for _ in range(3))
        self.last = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        assert len(x.shape) == 4 and x.ndim == 4 and x.dim() == 4
        batch, channels, height, width = x.shape
        for index in range(min(channels, math.ceil(height / 20))):
            x = self.convs[index](x)
        x = x.view(batch, channels, *x.shape[2:])
        return self.last(x * (len(x.shape) - 3)) if width > 9 else x


class Pieces(nn.Module):
    """Windows as functions, with sizes from shapes; a focus, which puts every second pixel among the channels."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(12, 6, 3)
        self.conv2 = nn.Conv2d(6, 6, 3)
        self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))

    def forward(self, x):
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        x = F.relu(self.conv1(torch.cat(parts, 1)))
        x = F.max_pool2d(x, x.size(2) // 9, 2, 1)
        x = F.conv2d(x, self.weight, stride=1, padding=1, groups=2)
        x = self.conv2(x)
        return F.max_pool2d(x, kernel_size=x.shape[2:])


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv2 = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        x = self.conv1(x)
        return self.conv2(x * self.pool(x).sigmoid())


def chain(*layers):
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers, nn.Conv2d(4, 5, 3))


IDIOMS = {
    "cifar": Cifar, "pieces": Pieces, "signed": Signed, "detached": Detached, "by shape": ByShape, "gated": Gated,
    "by batch": ByBatch, "by batch later": ByBatchLater, "by value": ByValue, "by precision": ByPrecision,
    "sizes": Sizes, "standardised": lambda: chain(Standardised(4, 4, 3, 2, padding=1)),
    "sign": lambda: chain(Sign()),
    "swish": lambda: chain(Swish(), nn.MaxPool2d(2)), "scale": lambda: chain(Scale(4), nn.ReLU(inplace=True)),
    "same": lambda: chain(SameConv(4, 4, 3, 2), Swish()), "zero pad": lambda: chain(nn.ZeroPad2d((2, 1, 0, 3))),
    "empty": lambda: chain(nn.Sequential()), "reflect": lambda: chain(nn.ReflectionPad2d(2)),
}  # fmt: skip


def network_of(idiom):
    torch.manual_seed(3)
    module = IDIOMS[idiom]()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2)
    return double(wrap_network(module.eval(), name="case", input_shape=(3, 40, 40)))


def at_layer(network, layer, x):
    """What the network itself puts out at the layer, with its gradient."""
    seen = []
    hook = network.module.get_submodule(layer).register_forward_hook(lambda _, i, output: seen.append(output.clone()))
    network.module(x.clone())
    hook.remove()
    return seen[0]


def gradient_of(response, x):
    weights = torch.randn(response.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return torch.autograd.grad((response * weights).sum(), x)[0]


@pytest.mark.parametrize("idiom", IDIOMS)
def test_scores_and_gradients_of_every_layer_are_those_of_the_network_as_it_is_written(idiom):
    network = network_of(idiom)
    layers = [layer for layer in list_layers(network) if not layer.rectified]
    assert layers
    without = {"conv2"} if idiom == "detached" else {}
    x = torch.cat([normal(network.input_shape, seed) for seed in (0, 1)]).requires_grad_()
    for layer in layers:
        expected, found = (
            at_layer(network, layer.name, x),
            cut_network(network, layer.name, crop=False).module(x.clone()),
        )
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
        assert found.requires_grad == expected.requires_grad == (layer.name not in without)
        if expected.requires_grad:
            torch.testing.assert_close(gradient_of(found, x), gradient_of(expected, x), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("idiom", "layer", "side"),
    [
        ("cifar", "layer1.1.shortcut", 7), ("cifar", "layer1.1.conv2", 11), ("cifar", "layer2.0.shortcut", 11),
        ("cifar", "layer2.0.conv2", 17), ("pieces", "conv2", 24), ("standardised", "1", 5), ("standardised", "2", 9),
        ("swish", "3", 8), ("scale", "3", 5), ("zero pad", "2", 5),
        ("empty", "2", 5), ("same", "1", 5), ("same", "3", 9), ("by shape", "conv", 6), ("sizes", "last", 7),
    ],
)  # fmt: skip
def test_a_crop_goes_through_what_is_computed_in_forward(idiom, layer, side, crop_corner):
    network = network_of(idiom)

    assert_exact(network, layer, lambda x: at_layer(network, layer, x), crop_corner)
    assert next(known.receptive_field for known in list_layers(network) if known.name == layer) == side


@pytest.mark.parametrize(
    ("idiom", "layer", "says"),
    [
        ("gated", "conv2", "from pool on"),
        ("sign", "2", "from Backward in 1 on"),
        ("signed", "conv2", "from Backward on"),
        ("reflect", "2", "from 1 on"),
        ("by batch", "conv", "not traced: TraceError: symbolically traced variables cannot be"),
        ("by batch later", "conv", "not traced: TraceError: symbolically traced variables cannot be"),
        ("by precision", "conv", "not traced: TraceError: symbolically traced variables cannot be"),
        ("by value", "conv", "not traced: TraceError: symbolically traced variables cannot be"),
    ],
)  # fmt: skip
def test_a_layer_that_needs_the_whole_image_says_from_where_on(idiom, layer, says):
    network = network_of(idiom)
    known = next(known for known in list_layers(network) if known.name == layer)
    assert known.receptive_field is None
    assert known.uncropped.startswith(says)
    assert not cut_network(network, layer).cropped


def test_a_layer_that_is_cropped_or_has_no_map_needs_no_reason():
    assert {layer.uncropped for layer in list_layers(network_of("cifar"))} == {""}
