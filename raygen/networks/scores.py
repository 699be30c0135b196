"""The score of a node: one number for each input, with its gradient."""

from __future__ import annotations

import copy
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from raygen.errors import NodeError
from raygen.networks.graph.cut import Cut
from raygen.networks.graph.rewriting import trim_graph
from raygen.networks.kernels.late_relu import with_late_relus
from raygen.networks.kernels.polyphase import with_polyphase_gradients
from raygen.networks.kernels.pooling import pool_in_pairs
from raygen.networks.nodes import check_position
from raygen.networks.readout import MeanReadout, RowReadout, is_pixelwise, split_last
from raygen.networks.settings import Precision

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class NodeScores:
    """Scores of many nodes of one layer, packed in one batch: row i belongs to channel ``channels[i]``.

    The score is the response of the cut's layer: of a layer without a map its channel, of a map the channel at
    ``position`` or else at the centre (rows // 2, columns // 2), and with ``mean``, or of a map that holds the classes,
    the mean over the map. No gradient is ever taken with respect to weights. A row's score depends on the
    other rows by no more than round-off.

    Args:
        cut: the network up to the layer; not changed.
        channels: (N,) int64, the channel of each row.
        position: (row, column) on the cut's map, for all rows.
        mean: take the mean over the map instead, for all rows.
        weights: (N, channels of the layer) floating; where given, the score of row i is the sum of all channels with
            these weights, a direction, and ``channels`` only says what a row is called.

    Raises:
        NodeError: if a channel or the position is not there, or the weights do not fit; of a cropped cut there is only
            the position 0,0, and no mean.
    """

    def __init__(
        self,
        cut: Cut,
        channels: Tensor,
        position: tuple[int, int] | None = None,
        *,
        mean: bool = False,
        weights: Tensor | None = None,
    ) -> None:
        self.cut = cut
        self.channels = channels.detach().clone().to(torch.int64)
        self.position = position
        self.weights = None if weights is None else weights.detach().clone()
        _check(cut, self.channels, position)
        _check_sum(cut, self.channels, self.weights, mean=mean)
        height, width = cut.map_size or (1, 1)
        self._place = position or (height // 2, width // 2)
        self._mean = position is None and (mean or cut.is_classes) and height * width > 1
        like = next(cut.module.parameters(), torch.zeros(()))
        self._dtype, self._device = like.dtype, like.device
        self._format = torch.channels_last
        self._precision: Precision | None = None
        body, self._last, self._readout = self._split()
        # The cut's own module stays as it is.
        quick = with_polyphase_gradients(with_late_relus(copy.deepcopy(body)))
        self._body = pool_in_pairs(quick).to(memory_format=self._format)
        self.channels = self.channels.to(self._device)
        self.weights = None if self.weights is None else self.weights.to(self._device)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the scores (N,) of ``x`` (N, C, h, w) in the dtype of ``x``, which must be float32 or float64.

        Scores of a float64 ``x`` are computed in float64, unless :meth:`with_precision` has fixed another one.
        """
        if len(x) != len(self.channels):
            raise ValueError(f"{len(x)} inputs for {len(self.channels)} channels")
        if self._other_precision(x):
            return self._double(x)
        features = self._body(x.to(self._dtype, memory_format=self._format))
        if self._readout is not None:
            scores: Tensor = self._readout(features)
            return scores.to(x.dtype)
        responses = self._reduce(features)
        if self.weights is not None:
            return (responses.to(x.dtype) * self.weights.to(x.dtype)).sum(1)
        return responses.gather(1, self.channels[:, None])[:, 0].to(x.dtype)

    def responses(self, x: Tensor) -> Tensor:
        """Return what the scores of all channels are, (M, channels), for any number of inputs ``x`` (M, C, h, w)."""
        if self._other_precision(x):
            return self._double.responses(x)
        return self._reduce(self._last(self._body(x.to(self._dtype, memory_format=self._format)))).to(x.dtype)

    def with_precision(self, precision: Precision) -> NodeScores:
        """Return scores whose network runs in ``precision``, in the memory format that is fastest for it.

        They take and return what these do, the gradient included; only the last, linear step stays in float32.
        """
        other = copy.copy(self)
        other.__dict__.pop("_double", None)
        if precision == "bfloat16" and next(self._body.parameters(), None) is None:
            precision = "float32"  # there is nothing but the last step
        dtype, memory = _DTYPES[precision], torch.channels_last
        other._precision, other._dtype, other._format = precision, dtype, memory
        other._body = copy.deepcopy(self._body).to(dtype=dtype).to(memory_format=memory)
        other._last = copy.deepcopy(self._last).to(dtype=dtype).to(memory_format=memory)
        wide = torch.float64 if precision == "float64" else torch.float32
        other._readout = None if self._readout is None else copy.deepcopy(self._readout).to(dtype=wide)
        return other

    def rows(self, chosen: Tensor) -> NodeScores:
        """Return the scores of some rows alone, over the same network; ``chosen`` (N,) says which, or holds numbers."""
        other = copy.copy(self)
        other.__dict__.pop("_double", None)
        other.channels = self.channels[chosen]
        other.weights = None if self.weights is None else self.weights[chosen]
        other._readout = None if self._readout is None else self._readout.of_rows(chosen)
        return other

    def to(self, device: torch.device | str) -> NodeScores:
        """Return the same scores on ``device``."""
        other = copy.copy(self)
        other.__dict__.pop("_double", None)
        other._device = torch.device(device)
        other.channels = self.channels.to(device)
        other.weights = None if self.weights is None else self.weights.to(device)
        other._body = copy.deepcopy(self._body).to(device=device)
        other._last = copy.deepcopy(self._last).to(device=device)
        other._readout = None if self._readout is None else copy.deepcopy(self._readout).to(device=device)
        return other

    @cached_property
    def _double(self) -> NodeScores:
        return self.with_precision("float64")

    def _other_precision(self, x: Tensor) -> bool:
        return self._precision is None and x.dtype == torch.float64 != self._dtype

    def _split(self) -> tuple[nn.Module, nn.Module, RowReadout | MeanReadout | None]:
        module = self._trim()
        parts = split_last(module)
        if parts is None:
            return module, nn.Identity(), None
        body, last = parts
        channels = self.channels.to(last.weight.device)
        if not self._mean:
            return body, last, RowReadout(last, channels, self._place, self._weights_like(last))
        if isinstance(last, nn.Conv2d) and is_pixelwise(last):
            return body, last, MeanReadout(last, channels, self._weights_like(last))
        return module, nn.Identity(), None

    def _trim(self) -> nn.Module:
        """Return the cut's module, which computes the whole map only where that is needed."""
        module = self.cut.module
        if self._mean or self.cut.map_size in (None, (1, 1)) or not isinstance(module, fx.GraphModule):
            return module
        place, self._place = self._place, (0, 0)
        return trim_graph(module, self.cut.input_shape, place)

    def _weights_like(self, layer: nn.Conv2d | nn.Linear) -> Tensor | None:
        return None if self.weights is None else self.weights.to(layer.weight)

    def _reduce(self, response: Tensor) -> Tensor:
        if response.ndim == 2:
            return response
        if self._mean:
            return response.mean((2, 3))
        return response[:, :, self._place[0], self._place[1]]


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
