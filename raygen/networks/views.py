"""A node's score as the mean over views: the same image moved and zoomed by fixed amounts.

What drives a score up in one alignment of the pixels alone, and not in its neighbours', shows nothing of what the
network has learnt. A mean over views leaves it out. It is another score than the plain one, with its own density.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from raygen.networks.scores import NodeScores
from raygen.networks.settings import Precision

_SHIFT = 1 / 14
"""Largest shift, as a fraction of the image's side: 8 of 112 pixels."""

_ZOOM = 0.15
"""Largest relative change of size."""

_PLASTIC = 1.2207440846057596
"""The real root of x^4 = x + 1. Its powers make a sequence that covers three dimensions evenly (Roberts 2018)."""


@dataclass(frozen=True)
class Views:
    """So many views of images of one size, always the same ones; number 0 is the image itself.

    Each is linear in the image and works along the rows and the columns apart. Beyond the edge the image is mirrored.

    Attributes:
        down: weights of the rows of the image in each row of the view, shape (K, H, H).
        across: the same of columns, shape (K, W, W).
    """

    down: Tensor
    across: Tensor

    @classmethod
    def of(cls, count: int, height: int, width: int, *, first: int = 0) -> Views:
        """Return ``count`` views, at least 1, in float32; those from number ``first`` on in their sequence."""
        index = torch.arange(first, first + count, dtype=torch.float64)[:, None]
        powers = torch.tensor([_PLASTIC**-1, _PLASTIC**-2, _PLASTIC**-3], dtype=torch.float64)
        down, across, zoom = (2 * ((0.5 + index * powers) % 1) - 1).unbind(1)  # 0 for number 0, else in -1..1
        size = 1 + _ZOOM * zoom
        return cls(_resampling(height, size, _SHIFT * height * down), _resampling(width, size, _SHIFT * width * across))

    def __len__(self) -> int:
        """Return K."""
        return len(self.down)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the views of images (N, C, H, W), those of an image in turn, shape (N * K, C, H, W)."""
        down, across = self.down[:, None].to(x), self.across[:, None].to(x)
        seen: Tensor = down @ x[:, None] @ across.mT
        return seen.flatten(0, 1)

    def to(self, device: torch.device | str) -> Views:
        """Return the views on ``device``."""
        return Views(self.down.to(device), self.across.to(device))


class ViewScores(nn.Module):
    """Scores of many nodes of one layer, each the mean over views of its images; otherwise as :class:`NodeScores`.

    Args:
        scores: of the nodes, one row for each view of each image: those of an image in turn.
        plain: of the same nodes, one row for each image.
        views: at least one.
    """

    def __init__(self, scores: NodeScores, plain: NodeScores, views: Views) -> None:
        super().__init__()
        self.scores = scores
        self.plain = plain
        self.views = views
        self.input_shape = plain.input_shape
        self.eval()

    @property
    def channels(self) -> Tensor:
        """The channel of each image, (N,) int64."""
        return self.plain.channels

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (N,) of ``x`` (N, C, h, w)."""
        if len(x) != len(self.channels):
            raise ValueError(f"{len(x)} inputs for {len(self.channels)} channels")
        scores: Tensor = self.scores(self.views(x))
        return scores.view(len(x), len(self.views)).mean(1)

    def responses(self, x: Tensor) -> Tensor:
        """Return what the plain scores of all channels are, (M, channels), for any number of inputs."""
        return self.plain.responses(x)

    def with_precision(self, precision: Precision) -> ViewScores:
        """Return scores whose network runs in ``precision``; the views are made in that of the images."""
        return ViewScores(self.scores.with_precision(precision), self.plain, self.views)

    def rows(self, chosen: Tensor) -> ViewScores:
        """Return the scores of some rows alone; ``chosen`` (N,) says which, or holds numbers."""
        numbers = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen
        each = torch.arange(len(self.views), device=numbers.device)
        seen = (numbers[:, None] * len(self.views) + each).flatten()
        return ViewScores(self.scores.rows(seen), self.plain.rows(chosen), self.views)


Scores = NodeScores | ViewScores
"""Of nodes of one layer: the plain ones, or the means over views."""


def _resampling(length: int, size: Tensor, shift: Tensor) -> Tensor:
    """Return the weights of linear interpolation, shape (K, length, length), float32.

    Args:
        length: of the image's side.
        size: by which the image is enlarged around its middle, shape (K,).
        shift: by which it is moved then, in pixels, shape (K,).
    """
    middle = (length - 1) / 2
    where = middle + (torch.arange(length, dtype=torch.float64) - middle - shift[:, None]) / size[:, None]
    period = max(2 * (length - 1), 1)  # mirrored at the middles of the outermost pixels
    where = where % period
    where = torch.minimum(where, period - where).clamp(max=length - 1)
    distance = (where[:, :, None] - torch.arange(length, dtype=torch.float64)).abs()
    return (1 - distance).clamp(min=0).float()
