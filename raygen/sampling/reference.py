"""The reference distribution for images of a layer's input shape: made as the settings ask, or read from a file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from raygen.data import ImageSet, hash_images
from raygen.errors import SettingsError
from raygen.networks import Network, cut_for
from raygen.nodes import Node
from raygen.tilting import (
    FitSettings,
    Fitted,
    FittedSpectrum,
    PowerLaw,
    Provenance,
    Reference,
    TiltingSettings,
    WhiteNoise,
    load_reference,
)

_LARGEST_COVARIANCE = 4096
"""Values of an image above which its spectrum is fitted, not its covariance, whose root alone would take 64 MB."""

_PATCHES = 20_000
"""Patches that the reference of a receptive field is fitted to, at most."""

_PATCH_VALUES = 2**28
"""Values of all patches together, at most; bytes."""

_SPECTRUM_IMAGES = 4000
"""Images whose spectra are averaged, at most: 1 % of noise at each frequency."""

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class SavedReference:
    """A reference that was read from a file.

    Attributes:
        file: where from, as the user wrote it.
        hash: SHA-256 (hex) of the file.
        reference: what it holds, on the CPU.
        provenance: what it was fitted to; None for one that was not.
    """

    file: str
    hash: str
    reference: Reference
    provenance: Provenance | None

    @classmethod
    def read(cls, file: str) -> SavedReference:
        """Read ``file``.

        Raises:
            StoreError: if it cannot be read or holds no reference.
        """
        reference, provenance = load_reference(file)
        return cls(file, hashlib.sha256(Path(file).read_bytes()).hexdigest(), reference, provenance)

    def fitting(self, network: Network, shape: Shape, what: str) -> Reference:
        """Return the reference.

        Raises:
            SettingsError: if it is not of ``shape``, which is that of ``what``, or in another network's units.
        """
        made, own = self.provenance, (network.mean, network.std)
        if made is not None and made.mean and (made.mean, made.std) != own:
            raise SettingsError(
                f"a reference of images of mean {made.mean} and deviation {made.std} for a network whose input has "
                f"{own[0]} and {own[1]}", where=self.file,
                right="make one with raygen reference and this network",
            )  # fmt: skip
        if self.reference.shape != shape:
            raise SettingsError(f"a reference of {_sizes(self.reference.shape)} for {what}, whose images are "
                                f"{_sizes(shape)}", where=self.file, right="make one of that size with raygen "
                                "reference")  # fmt: skip
        return self.reference


Source = ImageSet | SavedReference | None
"""What a reference is made of: the images that it is fitted to, a saved one, or nothing for noise."""


def make_reference(settings: TiltingSettings, shape: Shape, network: Network, source: Source) -> Reference:
    """Return the reference that ``settings`` ask for.

    Args:
        settings: which reference.
        shape: (C, H, W) of the images to be sampled; smaller than the network's for a receptive field.
        network: whose input units the reference is in.
        source: what a fitted reference is fitted to, of the network's input shape; or a saved reference, which goes
            before what the settings say, and is read from their ``reference_file`` where it is not given here.

    Raises:
        SettingsError: if a fitted reference is asked for without images, or with images that are smaller than ``shape``
            or have other channels; or if a saved one is not of ``shape``.
        StoreError: if a saved reference cannot be read.
    """
    saved = saved_reference(settings, source)
    if saved is not None:
        return saved.fitting(network, shape, f"a layer of {network.name}")
    if settings.reference == "white":
        return WhiteNoise(shape, settings.sigma)
    if settings.reference == "power-law":
        return PowerLaw.of(shape, settings.sigma, settings.exponent)
    if not isinstance(source, ImageSet):
        raise SettingsError("reference = 'fitted' without a data set", where="reference",
                            right="give --data as well, or the reference white or power-law")  # fmt: skip
    return _fit(settings, shape, network, source)[0]


def fit_reference(
    settings: FitSettings, shape: Shape, network: Network, images: ImageSet
) -> tuple[Reference, Provenance]:
    """Fit a reference to images, or to patches of them; by their covariance if they are small, else by their spectrum.

    Args:
        settings: of the fit.
        shape: (C, H, W) of the reference.
        network: whose input units it is in.
        images: of ``shape`` or larger.

    Raises:
        SettingsError: if there are no images, or they are smaller than ``shape`` or have other channels.
    """
    reference, seen = _fit(settings, shape, network, images)
    return reference, Provenance(images.name, hash_images(images), seen, images.shape, network.mean, network.std)


def _fit(settings: FitSettings, shape: Shape, network: Network, images: ImageSet) -> tuple[Reference, int]:
    """Return the reference, and how many images or patches of images it was fitted to."""
    if images.shape[0] != shape[0] or images.shape[1] < shape[1] or images.shape[2] < shape[2] or not len(images):
        raise SettingsError(f"a reference of shape {shape} for {len(images)} images of shape {images.shape}",
                            where="reference", right="give images of that size or larger, or power-law")  # fmt: skip
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (network.mean, network.std))
    patches = _patches(images.images, shape)

    def to_input(pixels: Tensor) -> Tensor:
        return (pixels.float() / 255 - mean) / std

    if math.prod(shape) <= _LARGEST_COVARIANCE:
        return Fitted.of(to_input(patches), floor=settings.floor, scale=settings.scale), len(patches)
    patches = patches[:_SPECTRUM_IMAGES]
    spectrum = FittedSpectrum.of(patches, floor=settings.floor, scale=settings.scale, to_input=to_input)
    return spectrum, len(patches)


def saved_reference(settings: TiltingSettings, source: Source) -> SavedReference | None:
    """Return the saved reference that is asked for: the source itself, or what the settings' file holds.

    Raises:
        StoreError: if the file cannot be read or holds no reference.
    """
    if isinstance(source, SavedReference) or settings.reference_file is None:
        return source if isinstance(source, SavedReference) else None
    return SavedReference.read(settings.reference_file)


def check_saved(saved: SavedReference, network: Network, nodes: Iterable[Node], *, crop: bool) -> None:
    """Refuse a saved reference that does not fit the images of every node.

    Raises:
        SettingsError: naming the first node that it does not fit, with both sizes.
    """
    for node in {(node.layer, node.ending): node for node in nodes}.values():
        saved.fitting(network, cut_for(network, node, crop=crop).input_shape, f"node {node}")


def _sizes(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _patches(images: Tensor, shape: Shape) -> Tensor:
    """Return the images themselves, or patches of ``shape`` at random positions, always the same ones."""
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
