"""Images whose pixels stay between two bounds: a Gaussian through a logistic map of each pixel and colour."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from raygen.errors import ScoreError
from raygen.tilting.references.base import Reference


@dataclass(frozen=True)
class Bounded(Reference):
    """x = low + (high - low) / (1 + exp(-y)), where y is an image of the Gaussian ``base``.

    The map from z to x is smooth and one to one, so nothing changes for the chains: their density is
    exp(b f(x(z))) N(z; 0, I). The density of x is that of y over the map's determinant, which is diagonal.

    Contrast is measured in y, where q is a Gaussian: ``linear`` and ``power`` are those of ``base``.

    Attributes:
        base: of y, a Gaussian.
        low, high: bounds of each channel in the network's input units, shape (C, 1, 1).
    """

    base: Reference
    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.base, Bounded):
            raise ScoreError("a bounded reference of a bounded one", where="reference", right="give a Gaussian")
        channels = (self.base.shape[0], 1, 1)
        if tuple(self.low.shape) != channels or tuple(self.high.shape) != channels:
            raise ScoreError(f"bounds of shape {tuple(self.low.shape)} and {tuple(self.high.shape)}", where="reference",
                             right=f"give both as {channels}")  # fmt: skip
        if not bool(((self.high - self.low) > 0).all() and self.low.isfinite().all() and self.high.isfinite().all()):
            raise ScoreError("bounds that are not finite, or of which the upper is not above the lower",
                             where="reference", right="give low below high")  # fmt: skip

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(C, H, W) of the Gaussian."""
        return self.base.shape

    @property
    @override
    def bounds(self) -> tuple[Tensor, Tensor]:
        return self.low, self.high

    @override
    def linear(self, z: Tensor) -> Tensor:
        return self.base.linear(z)

    @override
    def image(self, z: Tensor) -> Tensor:
        low, high = self.low.to(z.dtype), self.high.to(z.dtype)
        return low + (high - low) * torch.sigmoid(self.base.image(z))

    @override
    def whiten(self, x: Tensor) -> Tensor:
        return self.base.whiten(self._logit(x))

    @override
    def log_density(self, x: Tensor) -> Tensor:
        """Return log q(x), shape (N,); not a number where a pixel is not between the bounds."""
        y = self._logit(x)
        # dx/dy = (high - low) s(y) s(-y) with the logistic function s.
        slope = F.logsigmoid(y) + F.logsigmoid(-y) + (self.high - self.low).to(y.dtype).log()
        return self.base.log_density(y) - slope.flatten(1).sum(1)

    @property
    @override
    def log_volume(self) -> float:
        return self.base.log_volume

    @property
    @override
    def power(self) -> float:
        return self.base.power

    @override
    def to(self, device: torch.device | str) -> Bounded:
        return Bounded(self.base.to(device), self.low.to(device), self.high.to(device))

    def _logit(self, x: Tensor) -> Tensor:
        low, high = self.low.to(x.dtype), self.high.to(x.dtype)
        return (x - low).log() - (high - x).log()
