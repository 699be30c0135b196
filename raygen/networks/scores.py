"""The score of a node: one number for each input, with its gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Self

import torch
from torch import Tensor, fx, nn

from raygen.errors import NodeError
from raygen.networks.graph.cut import Cut
from raygen.networks.graph.plain import copy_module, first_real
from raygen.networks.graph.rewriting import trim_graph
from raygen.networks.kernels import speed_up
from raygen.networks.nodes import check_position
from raygen.networks.readout import ChannelReadout, Readout, at_position, split_readout
from raygen.networks.settings import Precision
from raygen.notation import Node


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether the device itself computes in bfloat16.

    A processor without AVX-512 makes it of float32: LeNet's gradients then took eight times as long, and twice the
    memory.
    """
    if device.type != "cpu":
        return True
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def score_nodes(cut: Cut, nodes: Sequence[Node], chains: int = 1) -> NodeScores:
    """Return the scores of ``nodes``, each for ``chains`` rows in turn: N = len(nodes) * chains.

    Args:
        cut: of their layer, see :func:`raygen.networks.cut_for`.
        nodes: at least one, all with the same layer and ending.
        chains: rows of each node.

    Raises:
        NodeError: if the nodes do not share a layer and an ending, or are not in the layer.
    """
    kinds = list(dict.fromkeys(f"{node.layer}{node.ending}" for node in nodes))
    if len(kinds) != 1 or nodes[0].layer != cut.layer or nodes[0].after != cut.after:
        where = f"layer {cut.layer}{'@relu' if cut.after else ''}"
        raise NodeError(f"nodes of {', '.join(kinds)}", where=where, right="score the nodes of one layer and ending")
    channels = torch.tensor([node.channel for node in nodes])
    weights = _weights(cut, nodes) if any(node.terms for node in nodes) else None
    return NodeScores(
        cut,
        channels.repeat_interleave(chains),
        nodes[0].position,
        mean=nodes[0].mean,
        weights=None if weights is None else weights.repeat_interleave(chains, 0),
    )


class NodeScores(nn.Module):
    """Scores of many nodes of one layer, packed in one batch: row i belongs to channel ``channels[i]``.

    The score is the response of the cut's layer: of a layer without a map its channel, of a map the channel at
    ``position`` or else at the centre (rows // 2, columns // 2), and with ``mean``, or of a map that holds the classes,
    the mean over the map. No gradient is ever taken with respect to weights. A row's score depends on the
    other rows by no more than round-off.

    Of a precision that ``.to`` gives, the last, linear step is kept in float32 at least.

    Args:
        cut: the network up to the layer; not changed.
        channels: (N,) int64, the channel of each row.
        position: (row, column) on the cut's map, for all rows.
        mean: take the mean over the map instead, for all rows.
        weights: (N, channels of the layer) floating; where given, the score of row i is the sum of all channels with
            these weights, a direction, and ``channels`` only says what a row is called.

    Attributes:
        input_shape: (C, h, w) of one input.

    Raises:
        NodeError: if a channel or the position is not there, or the weights do not fit; of a cropped cut there is only
            the position 0,0, and no mean.
    """

    channels: Tensor
    like: Tensor
    readout: Readout

    def __init__(
        self,
        cut: Cut,
        channels: Tensor,
        position: tuple[int, int] | None = None,
        *,
        mean: bool = False,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        like = first_real(cut.module)
        channels = channels.detach().clone().to(torch.int64)
        weights = None if weights is None else weights.detach().clone()
        _check(cut, channels, position)
        _check_sum(cut, channels, weights, mean=mean)
        self.input_shape = cut.input_shape
        self.register_buffer("channels", channels.to(like.device))
        self.register_buffer("like", like.new_zeros(()))  # of the network's device and precision
        module, self._position = _computed(cut, position, mean=mean)
        weights = None if weights is None else weights.to(like.device)
        # A module looks up its buffers slowly, which a small cut's gradient would feel.
        self._count, self._dtype = len(channels), like.dtype
        self._plain, self._one_by_one = cut.plain, cut.one_by_one
        self._layout = torch.contiguous_format if cut.plain else torch.channels_last
        self.last: nn.Module
        # Copies: the cut's own module stays as it is, whatever becomes of this one.
        if cut.plain:
            self.body, self.last = copy_module(module), nn.Identity()
            self.readout = ChannelReadout(self.channels, self._position, weights)
        else:
            body, last, self.readout = split_readout(module, self.channels, self._position, weights)
            self.body, self.last = _channels_last(speed_up(body, frozen=True)), copy.deepcopy(last)
        self._fixed = False
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (N,) of ``x`` (N, C, h, w) in the dtype of ``x``, which must be float32 or float64.

        Scores of a float64 ``x`` are computed in float64, unless :meth:`with_precision` has fixed another one.
        """
        if len(x) != self._count:
            raise ValueError(f"{len(x)} inputs for {self._count} channels")
        if self._wider(x):
            return self._double.forward(x)
        scores: Tensor = self.readout(self._features(x), x.dtype)
        if not scores.requires_grad and x.requires_grad:
            return scores + 0 * x.flatten(1)[:, 0]  # the user's network gives no gradient: it is 0
        return scores

    def responses(self, x: Tensor) -> Tensor:
        """Return what the scores of all channels are, (M, channels), for any number of inputs ``x`` (M, C, h, w)."""
        if self._wider(x):
            return self._double.responses(x)
        return at_position(self.last(self._features(x)), self._position).to(x.dtype)

    def with_precision(self, precision: Precision) -> NodeScores:
        """Return scores whose network runs in ``precision``, in the memory format that is fastest for it.

        They take and return what these do, the gradient included; only the last, linear step stays in float32.
        """
        if precision == "bfloat16" and next(self.body.parameters(), None) is None:
            precision = "float32"  # there is nothing but the last step
        other = copy_module(self).to(getattr(torch, precision))
        if not self._plain:
            _channels_last(other.body)
            _channels_last(other.last)
        other._fixed = True
        return other

    def rows(self, chosen: Tensor) -> NodeScores:
        """Return the scores of some rows alone, over the same network; ``chosen`` (N,) says which, or holds numbers."""
        other = copy.copy(self)
        other.__dict__.pop("_double", None)
        other._buffers = {**self._buffers, "channels": self.channels[chosen]}
        other._modules = {**self._modules, "readout": self.readout.of_rows(chosen)}
        other._count = len(other.channels)
        return other

    def _features(self, x: Tensor) -> Tensor:
        if self._one_by_one:
            return torch.cat([self.body(image.to(self._dtype, copy=True)) for image in x[:, None]])
        # What is run as it is may change its input.
        features: Tensor = self.body(x.to(self._dtype, memory_format=self._layout, copy=self._plain))
        return features

    def _wider(self, x: Tensor) -> bool:
        return not self._fixed and x.dtype == torch.float64 != self._dtype

    @cached_property
    def _double(self) -> NodeScores:
        return self.with_precision("float64")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.__dict__.pop("_double", None)  # it is of what was before
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._dtype = self.like.dtype
        return self


def _channels_last(module: nn.Module) -> nn.Module:
    """Lay out the weights of convolutions so; parameters of a user's own kind may be no images, and stay."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            part.to(memory_format=torch.channels_last)
    return module


def _computed(cut: Cut, position: tuple[int, int] | None, *, mean: bool) -> tuple[nn.Module, tuple[int, int] | None]:
    """Return the cut's module, without what one response does not need, and where on its map the score is.

    None stands for the mean over the map.
    """
    height, width = cut.map_size or (1, 1)
    if position is None and (mean or cut.is_classes) and height * width > 1:
        return cut.module, None
    position = position or (height // 2, width // 2)
    if cut.map_size in (None, (1, 1)) or not isinstance(cut.module, fx.GraphModule):
        return cut.module, position
    return trim_graph(cut.module, cut.input_shape, position), (0, 0)


def _check(cut: Cut, channels: Tensor, position: tuple[int, int] | None) -> None:
    where = f"layer {cut.layer}"
    if channels.ndim != 1 or len(channels) == 0:
        right = "give one channel for each row"
        raise NodeError(f"channels of shape {tuple(channels.shape)}", where=where, right=right)
    wrong = channels[(channels < 0) | (channels >= cut.channels)]
    if len(wrong):
        right = f"channels of {cut.layer} are 0-{cut.channels - 1}"
        raise NodeError(f"there is no channel {int(wrong[0])}", where=where, right=right)
    if position is not None:
        layer = f"{cut.layer} (cropped to one response)" if cut.cropped else cut.layer
        check_position(position, cut.map_size, where=where, layer=layer)


def _check_sum(cut: Cut, channels: Tensor, weights: Tensor | None, *, mean: bool) -> None:
    where = f"layer {cut.layer}"
    if mean and (cut.cropped or cut.map_size is None):
        what = "is cropped to one response" if cut.cropped else "has no map"
        raise NodeError(f"{what}, which has no mean", where=where, right="cut it with crop=False, or leave mean out")
    shape = (len(channels), cut.channels)
    if weights is not None and tuple(weights.shape) != shape:
        raise NodeError(f"weights of shape {tuple(weights.shape)}", where=where, right=f"give them as {shape}")
    if weights is not None and not (weights.is_floating_point() and bool(weights.isfinite().all())):
        raise NodeError("weights that are no finite numbers", where=where, right="give finite floating numbers")


def _weights(cut: Cut, nodes: Sequence[Node]) -> Tensor:
    weights = torch.zeros(len(nodes), cut.channels, dtype=torch.float64)
    for row, node in enumerate(nodes):
        for channel, weight in node.terms or ((node.channel, 1.0),):
            if channel >= cut.channels:
                right = f"channels of {cut.layer} are 0-{cut.channels - 1}"
                raise NodeError(f"there is no channel {channel}", where=f"node {node}", right=right)
            weights[row, channel] = weight
    return weights
