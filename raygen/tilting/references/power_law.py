"""Noise with the second-order statistics of photographs, and the frequencies of a discrete Fourier transform."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from raygen.errors import ScoreError
from raygen.tilting.references.base import Reference, check_above_zero, check_shape
from raygen.tilting.settings import PHOTOGRAPH_EXPONENT

PHOTOGRAPH_COLOURS = ((1.0, 0.888, 0.768), (0.888, 1.0, 0.904), (0.768, 0.904, 1.0))
"""Correlation of red, green and blue over the pixels of 1,000 photographs, one of each ImageNet class."""

_STEEPNESS = 4
"""Order of the low-pass filter: an octave beyond its cutoff the amplitude is 1/16, and A can still be inverted well."""


@dataclass(frozen=True)
class PowerLaw(Reference):
    """Noise with the second-order statistics of photographs: amplitude ~ 1 / frequency^exponent, colours correlated.

    Periodic at the image's edges. Frequencies under one cycle an image count as one cycle.

    Attributes:
        shape: (C, H, W).
        sigma: standard deviation of a pixel, the same at every position and in every channel.
        exponent: of the amplitude spectrum; 0 is white noise, photographs have about 1.2.
        spectrum: amplitude by frequency, shape (H, W // 2 + 1).
        mixing: symmetric square root of the channels' correlation matrix, shape (C, C).
    """

    shape: tuple[int, int, int]
    sigma: float
    exponent: float
    spectrum: Tensor
    mixing: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero("sigma", self.sigma)
        if not 0 <= self.exponent < math.inf:
            raise ScoreError(f"exponent = {self.exponent:g}", where="reference",
                             right="give a finite number of at least 0; 0 is white noise")  # fmt: skip

    @classmethod
    def of(
        cls,
        shape: tuple[int, int, int],
        sigma: float,
        exponent: float = PHOTOGRAPH_EXPONENT,
        colours: tuple[tuple[float, ...], ...] | None = None,
        cutoff: float | None = None,
    ) -> PowerLaw:
        """Make the reference of this exponent.

        Args:
            shape: (C, H, W).
            sigma: standard deviation of a pixel, whatever the cutoff.
            exponent: of the amplitude spectrum.
            colours: correlation matrix of the channels; of photographs, or independent ones, where it is not given.
            cutoff: frequency beyond which the spectrum falls off, in cycles an image; None for no such frequency.

        Raises:
            ScoreError: if sigma or the cutoff is not above 0, the exponent below 0, or the colour matrix no positive
                definite correlation matrix of the channels.
        """
        check_shape(shape)
        channels, height, width = shape
        if colours is None:
            colours = PHOTOGRAPH_COLOURS if channels == 3 else tuple(map(tuple, torch.eye(channels).tolist()))
        matrix = torch.tensor(colours, dtype=torch.float64)
        if matrix.shape != (channels, channels) or not _is_correlation(matrix):
            raise ScoreError(f"colours = {colours} is no {channels} x {channels} correlation matrix", where="reference",
                             right="give a symmetric positive definite matrix with ones on its diagonal")  # fmt: skip
        values, vectors = torch.linalg.eigh(matrix)
        mixing = vectors * values.sqrt() @ vectors.T
        frequency = cycles(height, width)
        full = frequency.clamp(min=1.0) ** -exponent
        if cutoff is not None:
            full = full * low_pass(height, width, cutoff)
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
        planes = self.shape[0] * float(full_plane(self.spectrum.double().log(), width).sum())
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


def _is_correlation(matrix: Tensor) -> bool:
    ones = torch.ones(len(matrix), dtype=matrix.dtype)
    return (
        torch.equal(matrix, matrix.T)
        and torch.equal(matrix.diagonal(), ones)
        and bool((torch.linalg.eigvalsh(matrix) > 0).all())
    )


def cycles(height: int, width: int) -> Tensor:
    """Return the frequency of each Fourier coefficient in cycles an image (of the longer side), shape (H, W)."""
    longer = max(height, width)
    rows = torch.fft.fftfreq(height, dtype=torch.float64) * longer
    columns = torch.fft.fftfreq(width, dtype=torch.float64) * longer
    distance: Tensor = (rows[:, None].square() + columns[None, :].square()).sqrt()
    return distance


def angles(height: int, width: int) -> Tensor:
    """Return the direction of each Fourier coefficient's wave in radians, shape (H, W); 0 is along the rows."""
    rows = torch.fft.fftfreq(height, dtype=torch.float64)
    columns = torch.fft.fftfreq(width, dtype=torch.float64)
    return torch.atan2(rows[:, None].expand(height, width), columns.expand(height, width))


def low_pass(height: int, width: int, cutoff: float) -> Tensor:
    """Return Butterworth's response to each frequency, shape (H, W): near 1 under ``cutoff``, and never 0.

    Args:
        height: of the images.
        width: of the images.
        cutoff: cycles an image (of the longer side), at which the power is halved.

    Raises:
        ScoreError: if it is not above 0 and finite.
    """
    check_above_zero("cutoff", cutoff)
    return (1 + (cycles(height, width) / cutoff) ** (2 * _STEEPNESS)).rsqrt()


def full_plane(half: Tensor, width: int) -> Tensor:
    """Return an even function of the frequency at all of them, from the half plane of ``rfft2``.

    Args:
        half: shape (..., H, W // 2 + 1).
        width: W.

    Returns:
        Shape (..., H, W), in the order of ``fft2``.
    """
    # Column W - k is column k with the rows' frequencies of the other sign: row 0 stays, the others are exchanged.
    rest = half[..., 1 : (width + 1) // 2].flip((-2, -1)).roll(1, -2)
    return torch.cat([half, rest], dim=-1)


def opposite(plane: Tensor) -> Tensor:
    """Return the values at the opposite frequencies, (..., H, W) in the order of ``fft2``."""
    return plane.flip((-2, -1)).roll((1, 1), (-2, -1))
