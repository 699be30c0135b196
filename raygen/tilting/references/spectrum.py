"""The Gaussian of a data set of large images, by its spectrum: what a covariance that is the same everywhere leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from raygen.tilting.references.base import Reference, check_above_zero, check_images
from raygen.tilting.references.power_law import angles, cycles, full_plane, opposite
from raygen.tilting.settings import PHOTOGRAPH_EXPONENT

_BATCH = 32
"""Images transformed at once: 40 MB at 224 pixels."""

_ANGULAR_ORDER = 2
"""Harmonics of the angle that are kept: enough for a star of four points."""

_COLOUR_PRIOR = 10
"""Periodograms that the colours of all frequencies count for in those of one band."""


@dataclass(frozen=True)
class FittedSpectrum(Reference):
    """A stationary Gaussian with a data set's mean colour, power spectrum and colour covariance by frequency.

    Periodic at the image's edges. Needs no more memory than a few images, so it is for sizes whose full covariance
    (``Fitted``) does not fit.

    Attributes:
        shape: (C, H, W).
        mean: of each channel, shape (C, 1, 1).
        root: symmetric square root of the channels' covariance at each frequency, shape (C, C, H, W // 2 + 1): real,
            positive definite and even in the frequency, so that A is symmetric.
    """

    shape: tuple[int, int, int]
    mean: Tensor
    root: Tensor

    @classmethod
    def of(
        cls,
        images: Tensor,
        *,
        floor: float = 1e-3,
        scale: float = 1.0,
        to_input: Callable[[Tensor], Tensor] = Tensor.float,
    ) -> FittedSpectrum:
        """Fit to ``images`` (n, C, H, W).

        Images end at their edges, which a Fourier transform takes for steps and spreads over a cross of
        frequencies: a window keeps them out (Welch 1967). Powers are averaged over images, channels and angles, so
        that they are smooth along each ring of frequencies, colours over whole rings. The variance of all pixels
        together is that of the images, floor and scale apart.

        Args:
            images: in the network's input units, or any that ``to_input`` brings to them.
            floor: least eigenvalue, as a fraction of their mean.
            scale: factor on the standard deviation.
            to_input: applied to a batch of images at a time; returns float32.

        Raises:
            ScoreError: if there are no images, or floor or scale is not above 0.
        """
        check_images(images)
        check_above_zero("floor", floor)
        check_above_zero("scale", scale)
        _, channels, height, width = images.shape
        mean, variance = _moments(images, to_input)
        cross = full_plane(_cross_spectrum(images, to_input, mean), width)
        covariance = _even(_smooth(cross, len(images)))[..., : width // 2 + 1]
        trace = full_plane(covariance.diagonal(dim1=0, dim2=1).sum(-1), width)
        tiny = torch.finfo(torch.float32).tiny
        covariance = covariance * (height * width * variance.sum() / trace.sum().clamp(min=tiny))
        values, vectors = torch.linalg.eigh(covariance.permute(2, 3, 0, 1))
        least = max(floor * float(variance.mean()), tiny)
        root = scale * (vectors * values.clamp(min=least).sqrt()[..., None, :]) @ vectors.mT
        return cls((channels, height, width), mean.float(), root.permute(2, 3, 0, 1).float().contiguous())

    @override
    def linear(self, z: Tensor) -> Tensor:
        return self._apply(self.root, z)

    @override
    def image(self, z: Tensor) -> Tensor:
        return self.mean.to(z.dtype) + self.linear(z)

    @override
    def whiten(self, x: Tensor) -> Tensor:
        inverse = torch.linalg.inv(self._by_frequency()).permute(2, 3, 0, 1)
        return self._apply(inverse, x - self.mean.to(x.dtype))

    @property
    @override
    def log_volume(self) -> float:
        return float(full_plane(torch.linalg.slogdet(self._by_frequency())[1], self.shape[2]).sum())

    @property
    @override
    def power(self) -> float:
        return float(full_plane(self.root.double().square().sum((0, 1)), self.shape[2]).sum())

    @override
    def to(self, device: torch.device | str) -> FittedSpectrum:
        return FittedSpectrum(self.shape, self.mean.to(device), self.root.to(device))

    def _by_frequency(self) -> Tensor:
        return self.root.double().permute(2, 3, 0, 1)

    def _apply(self, matrices: Tensor, images: Tensor) -> Tensor:
        transformed = torch.fft.rfft2(images, norm="ortho")
        matrices = matrices.to(images.dtype)
        filtered = matrices[:, 0] * transformed[:, :1]
        for channel in range(1, self.shape[0]):
            filtered = filtered + matrices[:, channel] * transformed[:, channel : channel + 1]
        image: Tensor = torch.fft.irfft2(filtered, s=self.shape[1:], norm="ortho")
        return image


def _batches(images: Tensor, to_input: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    return (to_input(images[first : first + _BATCH]) for first in range(0, len(images), _BATCH))


def _moments(images: Tensor, to_input: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean of each channel (C, 1, 1) and its variance (C,), float64."""
    channels, count = images.shape[1], images.numel() // images.shape[1]
    total = torch.zeros(channels, dtype=torch.float64)
    square = torch.zeros_like(total)
    for batch in _batches(images, to_input):
        total += batch.sum((0, 2, 3), dtype=torch.float64)
        square += batch.double().square().sum((0, 2, 3))
    mean = total / count
    return mean.view(-1, 1, 1), (square / count - mean.square()).clamp(min=0)


def _cross_spectrum(images: Tensor, to_input: Callable[[Tensor], Tensor], mean: Tensor) -> Tensor:
    """Return the mean real cross-periodogram of the windowed images, shape (C, C, H, W // 2 + 1), float64."""
    _, channels, height, width = images.shape
    window = _hann(height)[:, None] * _hann(width)
    total = torch.zeros((channels, channels, height, width // 2 + 1), dtype=torch.float64)
    for batch in _batches(images, to_input):
        transformed = torch.fft.rfft2((batch - mean.to(batch)) * window.to(batch), norm="ortho")
        for channel in range(channels):
            products = transformed[:, channel : channel + 1].conj() * transformed
            total[channel] += products.real.sum(0, dtype=torch.float64)
    return total / len(images)


def _hann(length: int) -> Tensor:
    """Return Hann's window of mean square 1, between its zeros."""
    window = (math.pi * (torch.arange(length, dtype=torch.float64) + 0.5) / length).sin().square()
    return window / window.square().mean().sqrt()


def _smooth(cross: Tensor, images: int) -> Tensor:
    """Return the channels' covariance at all frequencies, (C, C, H, W): smooth powers times the colours of rings."""
    height, width = cross.shape[2:]
    radius = cycles(height, width)
    rings = _Rings(radius.round().long())
    # Averaged over a ring, a steep spectrum would be flat within it: the slope of photographs is taken out first.
    slope = radius.clamp(min=1.0) ** (2 * PHOTOGRAPH_EXPONENT)
    tiny = torch.finfo(torch.float64).tiny
    flat = cross * slope
    sums = rings.sums(flat)
    power = flat.diagonal(dim1=0, dim2=1).mean(-1)
    smooth = _over_angles(power, rings) / slope
    # Each ring's colours, of trace C, with those of all frequencies as a prior.
    colours = sums / sums.diagonal(dim1=0, dim2=1).mean(-1).clamp(min=tiny)
    everywhere = cross.sum((2, 3)) / cross.diagonal(dim1=0, dim2=1).mean(-1).sum().clamp(min=tiny)
    known = rings.sums(torch.ones_like(radius)) * images
    colours = (known * colours + _COLOUR_PRIOR * everywhere[:, :, None]) / (known + _COLOUR_PRIOR)
    return rings.spread(colours) * smooth


@dataclass(frozen=True)
class _Rings:
    """The frequencies by their radius: ``ring`` (H, W) int64."""

    ring: Tensor

    def sums(self, plane: Tensor) -> Tensor:
        """Return the sums of (..., H, W) over each ring, (..., rings)."""
        empty = plane.new_zeros((*plane.shape[:-2], int(self.ring.max()) + 1))
        return empty.index_add(-1, self.ring.flatten(), plane.flatten(-2))

    def spread(self, values: Tensor) -> Tensor:
        """Return the values (..., rings) at the frequencies of each ring, (..., H, W)."""
        return values[..., self.ring]


def _over_angles(power: Tensor, rings: _Rings) -> Tensor:
    """Return the mean of ``power`` (H, W) over each ring, weighted by Fejer's kernel of the angle in between.

    The kernel is positive and smooth: what is left is how the power rises towards the horizontal and the vertical, as
    a broad star. The narrow ridges on the axes, of a few pictures with frames or buildings, would make a Gaussian's
    draws look woven; so would a compression's grid.
    """
    angle = angles(*power.shape)
    share, weight = rings.spread(rings.sums(power)), rings.spread(rings.sums(torch.ones_like(power)))
    for order in range(1, _ANGULAR_ORDER + 1):
        # The spectrum is even: angles count modulo pi.
        fejer = 2 * (1 - order / (_ANGULAR_ORDER + 1))
        for wave in ((2 * order * angle).cos(), (2 * order * angle).sin()):
            share = share + fejer * wave * rings.spread(rings.sums(power * wave))
            weight = weight + fejer * wave * rings.spread(rings.sums(wave))
    return share / weight


def _even(plane: Tensor) -> Tensor:
    # It is even but for rounding, which would make the map's inverse inexact.
    return 0.5 * (plane + opposite(plane))
