"""References made of others: of a part of their images, and without their high frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raygen.errors import ScoreError
from raygen.tilting.references.base import Reference, WhiteNoise
from raygen.tilting.references.bounded import Bounded
from raygen.tilting.references.fitted import LARGEST_COVARIANCE, Fitted
from raygen.tilting.references.power_law import PowerLaw, full_plane, low_pass
from raygen.tilting.references.spectrum import FittedSpectrum

Shape = tuple[int, int, int]


def marginal(reference: Reference, shape: Shape) -> Reference:
    """Return the distribution of a part of a reference's images, that in their middle.

    It is exact where the part has up to 4,096 values. The covariance of a larger part would take too much memory: then
    it is the periodic Gaussian whose covariance is nearest to the part's (T. Chan 1988). Of a reference whose pixels
    have the same distribution everywhere, it does not matter which part it is.

    Args:
        reference: one of raygen's own, on the CPU.
        shape: (C, h, w) of the part.

    Raises:
        ScoreError: if the part is larger, or has other channels.
    """
    channels, height, width = reference.shape
    if shape[0] != channels or not (1 <= shape[1] <= height and 1 <= shape[2] <= width):
        raise ScoreError(f"a part of shape {shape} of images of shape {reference.shape}", where="reference",
                         right="fit the reference to larger images")  # fmt: skip
    if shape == reference.shape:
        return reference
    if isinstance(reference, Bounded):
        return Bounded(marginal(reference.base, shape), reference.low, reference.high)
    if isinstance(reference, WhiteNoise):
        return WhiteNoise(shape, reference.sigma)
    if isinstance(reference, Fitted):
        return _part_of_fitted(reference, shape)
    mean, covariance = _stationary(reference)
    if math.prod(shape) <= LARGEST_COVARIANCE:
        return Fitted(shape, mean.expand(shape).float().contiguous(), _root(_toeplitz(covariance, shape)).float())
    return _nearest_periodic(mean, covariance, shape)


def low_passed(reference: Fitted | FittedSpectrum, cutoff: float) -> Reference:
    """Return a fitted reference whose spectrum falls off beyond ``cutoff``, in cycles an image.

    The deviation of its pixels falls with what is left out.

    Raises:
        ScoreError: if the cutoff is not above 0 and finite.
    """
    _, height, width = reference.shape
    response = low_pass(height, width, cutoff)
    if isinstance(reference, FittedSpectrum):
        root = reference.root.double() * response[:, : width // 2 + 1]
        return FittedSpectrum(reference.shape, reference.mean, root.float())
    filtered = _filter(reference.root.double().view(-1, *reference.shape), response).flatten(1)
    return Fitted(reference.shape, reference.mean, _root(filtered.T @ filtered).float())


def _filter(images: Tensor, response: Tensor) -> Tensor:
    filtered: Tensor = torch.fft.ifft2(torch.fft.fft2(images) * response).real
    return filtered


def _root(covariance: Tensor) -> Tensor:
    """Return the symmetric square root, of the same dtype; round-off below zero is cut."""
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.T))
    least = torch.finfo(torch.float32).eps * float(values.max())
    root: Tensor = (vectors * values.clamp(min=least).sqrt()) @ vectors.T
    return root


def _part_of_fitted(reference: Fitted, shape: Shape) -> Fitted:
    _, height, width = reference.shape
    top, left = (height - shape[1]) // 2, (width - shape[2]) // 2
    numbers = torch.arange(reference.dimension).view(reference.shape)
    inside = numbers[:, top : top + shape[1], left : left + shape[2]].flatten()
    rows = reference.root.double()[inside]
    return Fitted(shape, reference.mean.flatten()[inside].view(shape), _root(rows @ rows.T).float())


def _stationary(reference: Reference) -> tuple[Tensor, Tensor]:
    """Return the mean of each channel (C, 1, 1), and the covariance of two pixels by the way between, (C, C, H, W)."""
    width = reference.shape[2]
    if isinstance(reference, FittedSpectrum):
        root = full_plane(reference.root.double(), width)
        mean = reference.mean.double()
    else:
        assert isinstance(reference, PowerLaw)  # there are no others
        root = reference.mixing.double()[:, :, None, None] * full_plane(reference.spectrum.double(), width)
        mean = torch.zeros((reference.shape[0], 1, 1), dtype=torch.float64)
    covariance: Tensor = torch.fft.ifft2(torch.einsum("ijhw,jkhw->ikhw", root, root)).real
    return mean, covariance


def _toeplitz(covariance: Tensor, shape: Shape) -> Tensor:
    """Return the covariance of all values of a part, (D, D), from that of two pixels by the way between."""
    channels, height, width = shape
    down = (torch.arange(height)[:, None] - torch.arange(height)) % covariance.shape[2]
    right = (torch.arange(width)[:, None] - torch.arange(width)) % covariance.shape[3]
    blocks: Tensor = covariance[:, :, down[:, None, :, None], right[None, :, None, :]]  # (C, C, h, w, h, w)
    size = channels * height * width
    return blocks.permute(0, 2, 3, 1, 4, 5).reshape(size, size)


def _nearest_periodic(mean: Tensor, covariance: Tensor, shape: Shape) -> FittedSpectrum:
    """Return the periodic Gaussian nearest to a part: each way around it counts as often as it occurs in the part."""
    folded = _fold(_fold(covariance, shape[1], 2), shape[2], 3)
    power = torch.fft.fft2(folded).real[..., : shape[2] // 2 + 1].permute(2, 3, 0, 1)
    values, vectors = torch.linalg.eigh(0.5 * (power + power.mT))
    least = torch.finfo(torch.float32).eps * float(values.max())
    root = (vectors * values.clamp(min=least).sqrt()[..., None, :]) @ vectors.mT
    return FittedSpectrum(shape, mean.float(), root.permute(2, 3, 0, 1).float().contiguous())


def _fold(covariance: Tensor, length: int, axis: int) -> Tensor:
    way = torch.arange(length)
    size = covariance.shape[axis]
    weight = ((length - way).double() / length).view([-1 if each == axis else 1 for each in range(4)])
    # A way of d one way around is one of length - d the other way around.
    there, back = covariance.index_select(axis, way), covariance.index_select(axis, (way - length) % size)
    return weight * there + (1 - weight) * back
