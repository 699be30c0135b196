"""White noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from raygen.tilting.references.base import Reference, check_above_zero


@dataclass(frozen=True)
class WhiteNoise(Reference):
    """N(0, sigma^2 I): the paper's reference (its section 3.4, with sigma 10 for LeNet)."""

    shape: tuple[int, int, int]
    sigma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero("sigma", self.sigma)

    @override
    def linear(self, z: Tensor) -> Tensor:
        return self.sigma * z

    @override
    def image(self, z: Tensor) -> Tensor:
        return self.sigma * z

    @override
    def whiten(self, x: Tensor) -> Tensor:
        return x / self.sigma

    @property
    @override
    def log_volume(self) -> float:
        return self.dimension * math.log(self.sigma)

    @property
    @override
    def power(self) -> float:
        return self.dimension * self.sigma**2
