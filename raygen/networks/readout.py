"""From the features below a node's layer to the node's own response, without computing the layer's other channels."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from raygen.networks.graph.tracing import end_graph, module_of, result


def split_last(module: nn.Module) -> tuple[nn.Module, nn.Conv2d | nn.Linear] | None:
    """Split a cut's module into what leads to its last layer and that layer, where this is linear; else None."""
    if not isinstance(module, fx.GraphModule):
        return None
    node = result(module.graph)
    layer = module_of(module, node)
    if not isinstance(layer, nn.Conv2d | nn.Linear) or len(node.all_input_nodes) != 1:
        return None
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return None
    return end_graph(module, node.all_input_nodes[0]), layer


class RowReadout(nn.Module):
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

    def forward(self, features: Tensor) -> Tensor:
        """Return (N,) responses to the layer's inputs ``features`` (N, D) or (N, D, rows, columns)."""
        patch = features
        if self.window is not None:
            rows, columns = self.padding
            if rows or columns:
                patch = F.pad(patch, (columns, columns, rows, rows))
            patch = patch[:, :, self.window[0], self.window[1]]
        if self.group_count > 1:
            own = torch.arange(len(patch), device=patch.device)
            patch = patch.reshape(len(patch), self.group_count, -1)[own, self.groups]
        # In the weights' precision: the features may come in a lower one.
        return (patch.flatten(1).to(self.weight.dtype) * self.weight).sum(1) + self.bias

    def of_rows(self, chosen: Tensor) -> RowReadout:
        """Return the readout of some rows alone; ``chosen`` (N,) says which, or holds their numbers."""
        other = copy.copy(self)
        other._buffers = {name: None if rows is None else rows[chosen] for name, rows in self._buffers.items()}
        return other


class MeanReadout(nn.Module):
    """Row i's mean over the map of channel ``channels[i]`` of a 1x1 convolution: the mean is taken before it.

    Args:
        layer: the last layer, see :func:`is_pixelwise`.
        channels: (N,) int64.
        weights: as in :class:`RowReadout`.
    """

    def __init__(self, layer: nn.Conv2d, channels: Tensor, weights: Tensor | None = None) -> None:
        super().__init__()
        self.rows = RowReadout(layer, channels, (0, 0), weights)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N,) means for the layer's inputs ``features`` (N, D, rows, columns)."""
        mean: Tensor = self.rows(features.to(self.rows.weight.dtype).mean((2, 3), keepdim=True))
        return mean

    def of_rows(self, chosen: Tensor) -> MeanReadout:
        """Return the readout of some rows alone; ``chosen`` (N,) says which, or holds their numbers."""
        other = copy.copy(self)
        other._modules = {"rows": self.rows.of_rows(chosen)}
        return other


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
