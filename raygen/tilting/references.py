"""Reference distributions q, each an exact whitening map x = mean + A z with z ~ N(0, I).

``z`` and ``x`` have the shape (N, C, H, W). The maps are linear torch operations, so automatic differentiation
carries a score's gradient through them exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from raygen.errors import ScoreError

PHOTOGRAPH_COLOURS = ((1.0, 0.888, 0.768), (0.888, 1.0, 0.904), (0.768, 0.904, 1.0))
"""Correlation of red, green and blue over the pixels of 1,000 photographs, one of each ImageNet class."""

PHOTOGRAPH_EXPONENT = 1.2
"""Exponent of their amplitude spectrum from 1 to 100 cycles an image (1.21; 1.18 to 1.29 in parts of that range)."""


class Reference(ABC):
    """A Gaussian over images of one shape (C, H, W)."""

    shape: tuple[int, int, int]

    @abstractmethod
    def linear(self, z: Tensor) -> Tensor:
        """Return A z."""

    @abstractmethod
    def image(self, z: Tensor) -> Tensor:
        """Return x = mean + A z."""

    @abstractmethod
    def whiten(self, x: Tensor) -> Tensor:
        """Return z = A^-1 (x - mean), the inverse of ``image``."""

    @property
    @abstractmethod
    def log_volume(self) -> float:
        """Logarithm of |det A|."""

    @property
    @abstractmethod
    def power(self) -> float:
        """Trace of A A': the summed variance of all pixels."""

    @property
    def dimension(self) -> int:
        """Pixels times channels."""
        return math.prod(self.shape)

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


@dataclass(frozen=True)
class PowerLaw(Reference):
    """Noise with the second-order statistics of photographs: amplitude ~ 1 / frequency^exponent, colours correlated.

    Periodic at the image's edges. Frequencies under one cycle an image count as one cycle.

    Attributes:
        shape: (C, H, W).
        sigma: standard deviation of a pixel, the same at every place and in every channel.
        exponent: of the amplitude spectrum; 0 is white noise, photographs have about 1.2.
        colours: symmetric positive definite correlation matrix of the channels, C x C, with ones on its diagonal.
    """

    shape: tuple[int, int, int]
    sigma: float
    exponent: float
    spectrum: Tensor  # (H, W // 2 + 1): amplitude by frequency
    mixing: Tensor  # (C, C): symmetric square root of the colour correlation

    @classmethod
    def of(
        cls,
        shape: tuple[int, int, int],
        sigma: float,
        exponent: float = PHOTOGRAPH_EXPONENT,
        colours: tuple[tuple[float, ...], ...] | None = None,
    ) -> PowerLaw:
        """Make the reference of this exponent; ``colours`` default to those of photographs, or to independent ones.

        Raises:
            ScoreError: if the colour matrix is of the wrong size or no positive definite correlation matrix.
        """
        channels, height, width = shape
        if colours is None:
            colours = PHOTOGRAPH_COLOURS if channels == 3 else _independent(channels)
        matrix = torch.tensor(colours, dtype=torch.float64)
        if matrix.shape != (channels, channels) or not _is_correlation(matrix):
            raise ScoreError(f"colours = {colours} is no {channels} x {channels} correlation matrix", where="reference",
                             right="give a symmetric positive definite matrix of the channels, with ones on its diagonal")  # fmt: skip
        values, vectors = torch.linalg.eigh(matrix)
        mixing = vectors * values.sqrt() @ vectors.T
        frequency = _cycles(height, width)
        full = frequency.clamp(min=1.0) ** -exponent
        spectrum = sigma * full / full.square().mean().sqrt()
        half = spectrum[:, : width // 2 + 1]
        return cls(shape, sigma, exponent, half.float().contiguous(), mixing.float())

    @override
    def linear(self, z: Tensor) -> Tensor:
        return self._apply(z, self.mixing, self.spectrum)

    @override
    def image(self, z: Tensor) -> Tensor:
        return self.linear(z)

    @override
    def whiten(self, x: Tensor) -> Tensor:
        return self._apply(x, torch.linalg.inv(self.mixing.double()), 1 / self.spectrum.double())

    @property
    @override
    def log_volume(self) -> float:
        _, height, width = self.shape
        columns = torch.cat([self.spectrum, self.spectrum[:, 1 : (width + 1) // 2]], dim=1)
        planes = self.shape[0] * float(columns.double().log().sum())
        return planes + height * width * float(torch.linalg.slogdet(self.mixing.double())[1])

    @property
    @override
    def power(self) -> float:
        return self.dimension * self.sigma**2

    @override
    def to(self, device: torch.device | str) -> PowerLaw:
        return PowerLaw(self.shape, self.sigma, self.exponent, self.spectrum.to(device), self.mixing.to(device))

    def _apply(self, z: Tensor, mixing: Tensor, spectrum: Tensor) -> Tensor:
        mixed = torch.einsum("cd,ndhw->nchw", mixing.to(z.dtype), z) if self.shape[0] > 1 else z
        filtered = torch.fft.rfft2(mixed, norm="ortho") * spectrum.to(z.dtype)
        image: Tensor = torch.fft.irfft2(filtered, s=self.shape[1:], norm="ortho")
        return image


@dataclass(frozen=True)
class Fitted(Reference):
    """The Gaussian of a data set: its mean and full covariance, for images of up to a few thousand values.

    Attributes:
        shape: (C, H, W).
        mean: of the images, shape (C, H, W).
        root: symmetric square root of the covariance, (D, D); its eigenvalues are kept above a floor, since a
            direction that the data never take would otherwise be closed to the chains.
    """

    shape: tuple[int, int, int]
    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, images: Tensor, *, floor: float = 1e-3, scale: float = 1.0) -> Fitted:
        """Fit to ``images`` (n, C, H, W).

        Args:
            images: in the network's input units.
            floor: least eigenvalue, as a fraction of their mean.
            scale: factor on the standard deviation.
        """
        rows = images.flatten(1).double()
        mean = rows.mean(0)
        centred = rows - mean
        covariance = centred.T @ centred / max(len(rows) - 1, 1)
        values, vectors = torch.linalg.eigh(covariance)
        least = max(floor * float(values.mean()), torch.finfo(torch.float32).tiny)
        root = scale * (vectors * values.clamp(min=least).sqrt()) @ vectors.T
        channels, height, width = images.shape[1:]
        return cls((channels, height, width), mean.view(images.shape[1:]).float(), root.float())

    @override
    def linear(self, z: Tensor) -> Tensor:
        return (z.flatten(1) @ self.root.to(z.dtype)).view_as(z)

    @override
    def image(self, z: Tensor) -> Tensor:
        return self.mean.to(z.dtype) + self.linear(z)

    @override
    def whiten(self, x: Tensor) -> Tensor:
        rows = (x - self.mean.to(x.dtype)).flatten(1)
        z: Tensor = torch.linalg.solve(self.root.to(x.dtype), rows.T)
        return z.T.reshape(x.shape)

    @property
    @override
    def log_volume(self) -> float:
        return float(torch.linalg.slogdet(self.root.double())[1])

    @property
    @override
    def power(self) -> float:
        return float(self.root.double().square().sum())

    @override
    def to(self, device: torch.device | str) -> Fitted:
        return Fitted(self.shape, self.mean.to(device), self.root.to(device))


def _independent(channels: int) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(row == column) for column in range(channels)) for row in range(channels))


def _is_correlation(matrix: Tensor) -> bool:
    ones = torch.ones(len(matrix), dtype=matrix.dtype)
    return (
        torch.equal(matrix, matrix.T)
        and torch.equal(matrix.diagonal(), ones)
        and bool((torch.linalg.eigvalsh(matrix) > 0).all())
    )


def _cycles(height: int, width: int) -> Tensor:
    """Return the frequency of each Fourier coefficient in cycles an image (of the longer side), shape (H, W)."""
    longer = max(height, width)
    rows = torch.fft.fftfreq(height, dtype=torch.float64) * longer
    columns = torch.fft.fftfreq(width, dtype=torch.float64) * longer
    cycles: Tensor = (rows[:, None].square() + columns[None, :].square()).sqrt()
    return cycles
