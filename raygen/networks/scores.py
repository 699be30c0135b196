"""The score of a node: one number for each input, with its gradient."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from raygen.errors import NodeError
from raygen.networks.cut import Cut
from raygen.networks.nodes import check_position
from raygen.networks.readout import MeanReadout, RowReadout, is_pixelwise, split_last

Precision = Literal["float32", "bfloat16", "float64"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class NodeScores:
    """Scores of many nodes of one layer, packed in one batch: row i belongs to channel ``channels[i]``.

    The score is the response of the cut's layer: of a layer without a map its channel, of a map the channel at
    ``position`` or else at the centre (rows // 2, columns // 2), and of a map that holds the classes the mean over the
    map. No gradient is ever taken with respect to weights. A row's score depends on the
    other rows by no more than round-off.

    Args:
        cut: the network up to the layer; not changed.
        channels: (N,) int64, the channel of each row.
        position: (row, column) on the cut's map, for all rows.

    Raises:
        NodeError: if a channel or the position is not there; of a cropped cut there is only the position 0,0.
    """

    def __init__(self, cut: Cut, channels: Tensor, position: tuple[int, int] | None = None) -> None:
        self.cut = cut
        self.channels = channels.detach().clone().to(torch.int64)
        self.position = position
        _check(cut, self.channels, position)
        height, width = cut.map_size or (1, 1)
        self._place = position or (height // 2, width // 2)
        self._mean = position is None and cut.is_classes and height * width > 1
        like = next(cut.module.parameters(), torch.zeros(()))
        self._dtype, self._device = like.dtype, like.device
        self._format: torch.memory_format = torch.contiguous_format
        self._precision: Precision | None = None
        self._body, self._last, self._readout = self._split()
        self.channels = self.channels.to(self._device)

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
        return self._reduce(features).gather(1, self.channels[:, None])[:, 0].to(x.dtype)

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

    def to(self, device: torch.device | str) -> NodeScores:
        """Return the same scores on ``device``."""
        other = copy.copy(self)
        other.__dict__.pop("_double", None)
        other._device = torch.device(device)
        other.channels = self.channels.to(device)
        other._body = copy.deepcopy(self._body).to(device=device)
        other._last = copy.deepcopy(self._last).to(device=device)
        other._readout = None if self._readout is None else copy.deepcopy(self._readout).to(device=device)
        return other

    @cached_property
    def _double(self) -> NodeScores:
        return self.with_precision("float64")

    def _other_precision(self, x: Tensor) -> bool:
        return self._precision is None and x.dtype == torch.float64 != self._dtype

    def _split(self) -> tuple[nn.Module, nn.Module, nn.Module | None]:
        parts = split_last(self.cut.module)
        if parts is None:
            return self.cut.module, nn.Identity(), None
        body, last = parts
        channels = self.channels.to(last.weight.device)
        if not self._mean:
            return body, last, RowReadout(last, channels, self._place)
        if isinstance(last, nn.Conv2d) and is_pixelwise(last):
            return body, last, MeanReadout(last, channels)
        return self.cut.module, nn.Identity(), None

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
