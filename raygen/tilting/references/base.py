"""What every reference distribution is, a map of white noise to images; and the simplest, white noise itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from raygen.errors import ScoreError


class Reference(ABC):
    """A distribution over images of one shape (C, H, W): a smooth map, one to one, of z ~ N(0, I).

    Most are Gaussians, with the map x = mean + A z.
    """

    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        check_shape(self.shape)

    @abstractmethod
    def linear(self, z: Tensor) -> Tensor:
        """Return A z."""

    @abstractmethod
    def image(self, z: Tensor) -> Tensor:
        """Return x, of a Gaussian mean + A z."""

    @abstractmethod
    def whiten(self, x: Tensor) -> Tensor:
        """Return z, of a Gaussian A^-1 (x - mean): the inverse of ``image``."""

    @property
    @abstractmethod
    def log_volume(self) -> float:
        """Logarithm of |det A|."""

    @property
    @abstractmethod
    def power(self) -> float:
        """Trace of A A': the summed variance of all pixels."""

    @property
    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """Between which values each channel lies, both of shape (C, 1, 1); None where there are no such bounds."""
        return None

    @property
    def dimension(self) -> int:
        """Pixels times channels."""
        return math.prod(self.shape)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return independent images, shape (count, C, H, W), float32, drawn on the generator's device.

        Args:
            count: how many.
            generator: of the device that this reference's tensors are on.
        """
        return self.image(torch.randn((count, *self.shape), generator=generator, device=generator.device))

    def log_density(self, x: Tensor) -> Tensor:
        """Return log q(x), shape (N,)."""
        square = self.whiten(x).flatten(1).square().sum(1)
        return -0.5 * (square + self.dimension * math.log(2 * math.pi)) - self.log_volume

    def to(self, device: torch.device | str) -> Reference:
        """Return this reference with its tensors on ``device``."""
        del device
        return self


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


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse a shape that no image has.

    Raises:
        ScoreError: naming it.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ScoreError(f"shape = {tuple(shape)} of a reference", where="reference",
                         right="give (channels, height, width), each at least 1")  # fmt: skip


def check_above_zero(name: str, value: float) -> None:
    """Refuse a value that is not above 0 and finite.

    Raises:
        ScoreError: naming it.
    """
    if not 0 < value < math.inf:
        raise ScoreError(f"{name} = {value:g}", where="reference", right="give a finite number above 0")


def check_images(images: Tensor) -> None:
    """Refuse images that no Gaussian can be fitted to.

    Raises:
        ScoreError: if they are not of shape (n, C, H, W), or there are none.
    """
    if images.ndim != 4 or len(images) == 0 or images.numel() == 0:
        raise ScoreError(f"images of shape {tuple(images.shape)} to fit to", where="reference",
                         right="give at least one image as (n, channels, height, width)")  # fmt: skip
