"""The reference distribution for images of a layer's input shape."""

from __future__ import annotations

import torch
from torch import Tensor

from raygen.data import ImageSet
from raygen.errors import SettingsError
from raygen.networks import Network
from raygen.tilting import Fitted, PowerLaw, Reference, TiltingSettings, WhiteNoise

_LARGEST_FIT = 4096
"""Values of an image above which the full covariance is not fitted: its root alone would take 64 MB."""

_PATCHES = 20_000
"""Patches that the covariance of a receptive field is fitted to."""


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
        SettingsError: if a fitted reference is asked for without images, or for images too large.
    """
    if settings.reference == "white":
        return WhiteNoise(shape, settings.sigma)
    if settings.reference == "power-law":
        return PowerLaw.of(shape, settings.sigma, settings.exponent)
    if images is None:
        raise SettingsError("reference = 'fitted' without a data set", where="reference",
                            right="give --data as well, or the reference white or power-law")  # fmt: skip
    if shape[0] * shape[1] * shape[2] > _LARGEST_FIT:
        raise SettingsError(f"reference = 'fitted' for images of shape {shape}", where="reference",
                            right=f"fit images of at most {_LARGEST_FIT} values, or take power-law")  # fmt: skip
    patches = _patches(images.images, shape).float() / 255
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (network.mean, network.std))
    return Fitted.of((patches - mean) / std, floor=settings.floor, scale=settings.scale)


def _patches(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return the images themselves, or patches of ``shape`` from places drawn at random, always the same ones."""
    if tuple(images.shape[1:]) == shape:
        return images
    generator = torch.Generator().manual_seed(0)
    _, height, width = shape
    which = torch.randint(len(images), (_PATCHES,), generator=generator)
    top = torch.randint(images.shape[2] - height + 1, (_PATCHES,), generator=generator)
    left = torch.randint(images.shape[3] - width + 1, (_PATCHES,), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    channels = torch.arange(shape[0])[None, :, None, None]
    return images[which[:, None, None, None], channels, rows, columns]
