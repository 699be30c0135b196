"""The reference distribution for images of a layer's input shape."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raygen.data import ImageSet
from raygen.errors import SettingsError
from raygen.networks import Network
from raygen.tilting import Fitted, FittedSpectrum, PowerLaw, Reference, TiltingSettings, WhiteNoise

_LARGEST_COVARIANCE = 4096
"""Values of an image above which its spectrum is fitted, not its covariance, whose root alone would take 64 MB."""

_PATCHES = 20_000
"""Patches that the reference of a receptive field is fitted to, at most."""

_PATCH_VALUES = 2**28
"""Values of all patches together, at most; bytes."""

_SPECTRUM_IMAGES = 4000
"""Images whose spectra are averaged, at most: 1 % of noise at each frequency."""


def make_reference(
    settings: TiltingSettings, shape: tuple[int, int, int], network: Network, images: ImageSet | None
) -> Reference:
    """Return the reference that ``settings`` ask for.

    Args:
        settings: which reference.
        shape: (C, H, W) of the images to be sampled; smaller than the network's for a receptive field.
        network: whose input units the reference is in.
        images: what a fitted reference is fitted to; of the network's input shape.

    Raises:
        SettingsError: if a fitted reference is asked for without images, or with images that are smaller than ``shape``
            or have other channels.
    """
    if settings.reference == "white":
        return WhiteNoise(shape, settings.sigma)
    if settings.reference == "power-law":
        return PowerLaw.of(shape, settings.sigma, settings.exponent)
    if images is None:
        raise SettingsError("reference = 'fitted' without a data set", where="reference",
                            right="give --data as well, or the reference white or power-law")  # fmt: skip
    if images.shape[0] != shape[0] or images.shape[1] < shape[1] or images.shape[2] < shape[2] or not len(images):
        raise SettingsError(f"a reference of shape {shape} for {len(images)} images of shape {images.shape}",
                            where="reference", right="give images of that size or larger, or power-law")  # fmt: skip
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (network.mean, network.std))
    patches = _patches(images.images, shape)

    def to_input(pixels: Tensor) -> Tensor:
        return (pixels.float() / 255 - mean) / std

    if math.prod(shape) <= _LARGEST_COVARIANCE:
        return Fitted.of(to_input(patches), floor=settings.floor, scale=settings.scale)
    return FittedSpectrum.of(patches[:_SPECTRUM_IMAGES], floor=settings.floor, scale=settings.scale, to_input=to_input)


def _patches(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return the images themselves, or patches of ``shape`` from places drawn at random, always the same ones."""
    if tuple(images.shape[1:]) == shape:
        return images
    generator = torch.Generator().manual_seed(0)
    _, height, width = shape
    count = max(1, min(_PATCHES, _PATCH_VALUES // math.prod(shape)))
    which = torch.randint(len(images), (count,), generator=generator)
    top = torch.randint(images.shape[2] - height + 1, (count,), generator=generator)
    left = torch.randint(images.shape[3] - width + 1, (count,), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    channels = torch.arange(shape[0])[None, :, None, None]
    return images[which[:, None, None, None], channels, rows, columns]
