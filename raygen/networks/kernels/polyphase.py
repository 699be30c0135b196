"""Convolutions of few channels, as of an image, with a faster gradient to their input on a CPU.

The gradient of a convolution with stride s to its input is an ordinary convolution of the output's gradient, which
makes each of the s x s phases of the input's pixels a channel, and a pixel shuffle (Shi et al. 2016, "Is the
deconvolution layer the same as a convolutional layer?"). An image has one or three channels, for which oneDNN's own
backward pass takes a third of a network's whole gradient; as many channels as phases suit its forward kernels better.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from raygen.networks.graph.plain import is_plain

_FEW = 4
"""Input channels below which this was faster, with strides 1 to 4 and in float32 and bfloat16; from 4 on it depends."""

_NARROW = 12
"""Phases times channels below which the columns of the kernel are made channels as well: oneDNN works in blocks
of 16."""


def with_polyphase_gradients(module: nn.Module) -> nn.Module:
    """Return ``module`` with a :class:`PolyphaseConv2d` for each convolution of few channels; it is not changed.

    The weights may be shared with ``module``, and a module without such a convolution is returned itself.
    """
    if not any(map(_is_suitable, module.modules())):
        return module
    if _is_suitable(module):
        assert isinstance(module, nn.Conv2d)
        return PolyphaseConv2d(module)
    other = copy.deepcopy(module)
    for name, layer in list(other.named_modules()):
        if _is_suitable(layer):
            assert isinstance(layer, nn.Conv2d)
            other.set_submodule(name, PolyphaseConv2d(layer))
    return other


class PolyphaseConv2d(nn.Conv2d):
    """The convolution ``layer`` with frozen weights, whose gradient to its input is a polyphase convolution on a CPU.

    Elsewhere, and in float64, the library's is used, which oneDNN has no part in. The gradient equals the library's to
    round-off. It cannot be differentiated again, and there is none to the weights.

    Args:
        layer: with one group, without dilation, padded with zeros; its weights are shared.
    """

    phase_weight: Tensor

    def __init__(self, layer: nn.Conv2d) -> None:
        kernel, stride = (layer.kernel_size[0], layer.kernel_size[1]), (layer.stride[0], layer.stride[1])
        padding = layer.padding if isinstance(layer.padding, str) else _low_padding(layer)
        super().__init__(layer.in_channels, layer.out_channels, kernel, stride=stride, padding=padding,
                         bias=layer.bias is not None, device="meta")  # fmt: skip
        self.weight = nn.Parameter(layer.weight.detach(), requires_grad=False)
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
        narrow = layer.in_channels * stride[0] * stride[1] < _NARROW
        self.phases = _Phases(layer.in_channels, kernel, stride, _low_padding(layer), narrow)
        self.register_buffer("phase_weight", self.phases.transpose(self.weight), persistent=False)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``input`` (N, C, H, W)."""
        if input.is_cpu and input.dtype != torch.float64 and input.requires_grad and torch.is_grad_enabled():
            output: Tensor = _Convolve.apply(input, self)
            return output
        return super().forward(input)

    def input_gradient(self, gradient: Tensor, size: torch.Size) -> Tensor:
        """Return the gradient to an input of shape ``size`` (N, C, H, W) from that of the output."""
        return self.phases.gradient(gradient, self.phase_weight, size).to(gradient.dtype)


@dataclass(frozen=True)
class _Phases:
    """How an image's gradient is made of phases.

    Attributes:
        channels: of the image.
        kernel, stride, padding: rows and columns; the padding above and to the left.
        narrow: whether the kernel's columns are channels, to be added up with a shift each.
    """

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    narrow: bool

    @property
    def taps(self) -> tuple[int, int]:
        """Rows and columns of the kernel of one phase."""
        return -(-self.kernel[0] // self.stride[0]), -(-self.kernel[1] // self.stride[1])

    def transpose(self, weight: Tensor) -> Tensor:
        """Return the weights, (outputs, C, rows, columns), of the convolution that makes the phases."""
        (rows, columns), (down, across) = self.taps, self.stride
        spare = rows * down - self.kernel[0], columns * across - self.kernel[1]
        padded = F.pad(weight.detach(), (0, spare[1], 0, spare[0]))
        split = padded.reshape(-1, self.channels, rows, down, columns, across)
        if self.narrow:
            taps = split.flip(2).permute(4, 3, 5, 1, 0, 2).reshape(-1, len(weight), rows, 1)
        else:
            taps = split.flip(2, 4).permute(3, 5, 1, 0, 2, 4).reshape(-1, len(weight), rows, columns)
        return taps.contiguous(memory_format=torch.channels_last)

    def gradient(self, output: Tensor, weight: Tensor, size: torch.Size) -> Tensor:
        """Return the gradient to the input, whose shape is ``size``, from ``output``'s by the phases' ``weight``."""
        rows, columns = self.taps
        output = output.contiguous(memory_format=torch.channels_last)
        padding = (rows - 1, 0 if self.narrow else columns - 1)
        found = F.conv2d(output, weight, padding=padding).permute(0, 2, 3, 1)
        image = _shuffle(self._shift(found) if self.narrow else found, self.stride, self.channels)
        top, left = self.padding
        below, right = (size[2] + top - image.shape[2], size[3] + left - image.shape[3])
        # Negative where there is more than the input's pixels; positive where its last ones reach no output.
        return F.pad(image, (-left, right, -top, below))

    def _shift(self, found: Tensor) -> Tensor:
        """Add up the columns of the kernel: column j of output pixel x belongs to column x + j."""
        count, height, width, _ = found.shape
        columns = self.taps[1]
        parts = found.view(count, height, width, columns, -1)
        dtype = torch.promote_types(found.dtype, torch.float32)
        total = torch.zeros(count, height, width + columns - 1, parts.shape[4], dtype=dtype)
        for column in range(columns):
            total[:, :, column : column + width] += parts[:, :, :, column]
        return total


def _shuffle(found: Tensor, stride: tuple[int, int], channels: int) -> Tensor:
    """Return the image (N, C, H, W) of the phases ``found`` (N, rows, columns, phases times C)."""
    count, rows, columns, _ = found.shape
    down, across = stride
    pixels = found.reshape(count, rows, columns, down, across, channels)
    return pixels.permute(0, 5, 1, 3, 2, 4).reshape(count, channels, rows * down, columns * across)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PolyphaseConv2d) -> Tensor:
        ctx.layer, ctx.size = layer, x.shape
        return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layer: PolyphaseConv2d = ctx.layer
        return layer.input_gradient(gradient, ctx.size), None


def _is_suitable(layer: nn.Module) -> bool:
    # A subclass, or a weight that is computed (weight normalisation), may mean something else.
    return (
        isinstance(layer, nn.Conv2d)
        and is_plain(layer, nn.Conv2d)
        and layer.in_channels < _FEW
        and layer.groups == 1
        and tuple(layer.dilation) == (1, 1)
        and layer.padding_mode == "zeros"
    )


def _low_padding(layer: nn.Conv2d) -> tuple[int, int]:
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        return (layer.kernel_size[0] - 1) // 2, (layer.kernel_size[1] - 1) // 2
    return int(layer.padding[0]), int(layer.padding[1])
