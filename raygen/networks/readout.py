"""From the features below a node's layer to the node's own response, without computing the layer's other channels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from raygen.networks.graph.plain import is_plain
from raygen.networks.graph.tracing import end_graph, module_of, result

Position = tuple[int, int] | None
"""(row, column) on a layer's map; None for the mean over it."""


def split_readout(
    module: nn.Module, channels: Tensor, position: Position, weights: Tensor | None
) -> tuple[nn.Module, nn.Module, Readout]:
    """Split a cut's module into what leads to its last layer, that layer, and the readout of each row from there.

    Where the last layer is not linear, the first is the whole module, the second does nothing, and the readout picks
    from the response.

    Args:
        module: a cut's; not changed, but what is returned may share its layers.
        channels: (N,) int64.
        position: of all rows.
        weights: (N, channels of the layer) or None, see :class:`RowReadout`.
    """
    parts = split_last(module)
    if parts is not None and position is not None:
        return *parts, RowReadout(parts[1], channels, position, weights)
    if parts is not None and is_pixelwise(parts[1]):
        return *parts, MeanReadout(parts[1], channels, (0, 0), weights)
    return module, nn.Identity(), ChannelReadout(channels, position, weights)


def split_last(module: nn.Module) -> tuple[nn.Module, nn.Conv2d | nn.Linear] | None:
    """Split a cut's module into what leads to its last layer and that layer, where this is linear; else None."""
    if not isinstance(module, fx.GraphModule):
        return None
    node = result(module.graph)
    layer = module_of(module, node)
    if (
        not isinstance(layer, nn.Conv2d | nn.Linear)
        or not is_plain(layer, nn.Conv2d, nn.Linear)
        or len(node.all_input_nodes) != 1
    ):
        return None
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return None
    return end_graph(module, node.all_input_nodes[0]), layer


class Readout(nn.Module):
    """The last step to the score of each row; its numbers have a row for each, and are not kept below float32."""

    def of_rows(self, chosen: Tensor) -> Self:
        """Return the readout of some rows alone; ``chosen`` (N,) says which, or holds their numbers."""
        other = copy.copy(self)
        other._buffers = {name: None if rows is None else rows[chosen] for name, rows in self._buffers.items()}
        return other

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Do what ``.to`` asks for, but for a precision below float32."""

        def widened(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            low = moved.dtype != tensor.dtype and moved.dtype in (torch.bfloat16, torch.float16)
            return tensor.to(moved.device, torch.float32) if low else moved

        super()._apply(widened, recurse)  # type: ignore[no-untyped-call]
        return self


class ChannelReadout(Readout):
    """Row i's response of channel ``channels[i]``, picked from the layer's response.

    Args:
        channels: (N,) int64.
        position: of all rows.
        weights: (N, channels of the layer); where given, row i's response is the sum of all channels with them.
    """

    channels: Tensor
    weights: Tensor | None

    def __init__(self, channels: Tensor, position: Position, weights: Tensor | None = None) -> None:
        super().__init__()
        self.position = position
        self.register_buffer("channels", channels)
        self.register_buffer("weights", weights)

    def forward(self, response: Tensor, dtype: torch.dtype) -> Tensor:
        """Return (N,) in ``dtype`` of the layer's ``response`` (N, C) or (N, C, rows, columns)."""
        responses = at_position(response, self.position)
        if self.weights is not None:
            return (responses.to(dtype) * self.weights.to(dtype)).sum(1)
        return responses.gather(1, self.channels[:, None])[:, 0].to(dtype)


class RowReadout(Readout):
    """Row i's response of channel ``channels[i]`` of a convolution, at one position, or of a linear layer.

    Args:
        layer: the last layer; its weights are copied, a row for each of ``channels``.
        channels: (N,) int64.
        position: (row, column) on the map of a convolution.
        weights: (N, channels of the layer); where given, row i's response is the sum of all channels with these weights
            instead: one row of weights still, since the layer is linear.
    """

    weight: Tensor
    bias: Tensor
    groups: Tensor

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        channels: Tensor,
        position: tuple[int, int],
        weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        weight = layer.weight.detach()
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
        self.group_count = layer.groups if isinstance(layer, nn.Conv2d) else 1
        groups = channels * self.group_count // len(weight)
        if weights is None:
            weight, bias = weight[channels].flatten(1), bias[channels]
        else:
            weights, self.group_count = weights.to(weight), 1
            weight, bias = weights @ _ungrouped(layer).flatten(1), weights @ bias
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("groups", groups)
        self.window: tuple[slice, slice] | None = None
        self.padding: tuple[int, int] = (0, 0)
        if isinstance(layer, nn.Conv2d):
            self.padding = (int(layer.padding[0]), int(layer.padding[1]))
            self.window = (_window(layer, 0, position), _window(layer, 1, position))

    def forward(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        """Return (N,) responses in ``dtype`` to the layer's inputs ``features`` (N, D) or (N, D, rows, columns)."""
        patch = features
        if self.window is not None:
            rows, columns = self.padding
            if rows or columns:
                patch = F.pad(patch, (columns, columns, rows, rows))
            patch = patch[:, :, self.window[0], self.window[1]]
        if self.group_count > 1:
            own = torch.arange(len(patch), device=patch.device)
            patch = patch.reshape(len(patch), self.group_count, -1)[own, self.groups]
        weight, patch = self.weight, patch.flatten(1)
        if patch.dtype != weight.dtype:  # the features may come in a lower precision
            patch = patch.to(weight.dtype)
        response = (patch * weight).sum(1) + self.bias
        return response if response.dtype == dtype else response.to(dtype)


class MeanReadout(RowReadout):
    """Row i's mean over the map of channel ``channels[i]`` of a 1x1 convolution, see :func:`is_pixelwise`.

    The mean is taken before it; the position is (0, 0).
    """

    def forward(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        """Return (N,) means in ``dtype`` for the layer's inputs ``features`` (N, D, rows, columns)."""
        return super().forward(features.to(self.weight.dtype).mean((2, 3), keepdim=True), dtype)


def at_position(response: Tensor, position: Position) -> Tensor:
    """Return (N, C) of a layer's ``response`` (N, C) or (N, C, rows, columns)."""
    if response.ndim == 2:
        return response
    return response.mean((2, 3)) if position is None else response[:, :, position[0], position[1]]


def is_pixelwise(layer: nn.Module) -> bool:
    """Say whether ``layer`` is a 1x1 convolution of every pixel, so that it commutes with the mean over the map."""
    return (
        isinstance(layer, nn.Conv2d)
        and tuple(layer.kernel_size) == tuple(layer.stride) == (1, 1)
        and tuple(layer.padding) == (0, 0)
    )


def _ungrouped(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """Return the weights with a column for every input channel: 0 for those of the other groups."""
    weight = layer.weight.detach()
    if not isinstance(layer, nn.Conv2d) or layer.groups == 1:
        return weight
    outputs, inputs = len(weight) // layer.groups, weight.shape[1]
    whole = weight.new_zeros(len(weight), layer.groups * inputs, *weight.shape[2:])
    for group in range(layer.groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        whole[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return whole


def _window(layer: nn.Conv2d, axis: int, position: tuple[int, int]) -> slice:
    start = position[axis] * layer.stride[axis]
    return slice(start, start + layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1, layer.dilation[axis])
