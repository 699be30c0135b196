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
from raygen.notation import Node
from raygen.tilting import (
    LARGEST_COVARIANCE,
    Bounded,
    FitSettings,
    Fitted,
    FittedSpectrum,
    PowerLaw,
    Provenance,
    Reference,
    TiltingSettings,
    WhiteNoise,
    load_reference,
    low_passed,
    marginal,
)

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

    def check(self, network: Network, shape: Shape, what: str) -> None:
        """Refuse the reference for images of ``shape``, which is that of ``what``.

        Raises:
            SettingsError: if it is of smaller images, or in another network's units.
        """
        made, own = self.provenance, (network.mean, network.std)
        bounded = isinstance(self.reference, Bounded)
        if made is not None and made.mean and not bounded and (made.mean, made.std) != own:
            raise SettingsError(
                f"a reference of images of mean {made.mean} and deviation {made.std} for a network whose input has "
                f"{own[0]} and {own[1]}", where=self.file,
                right="make one with raygen reference and this network",
            )  # fmt: skip
        have = self.reference.shape
        if have[0] != shape[0] or have[1] < shape[1] or have[2] < shape[2]:
            what = f"a reference of {_sizes(have)} for {what}, whose images are {_sizes(shape)}"
            right = "make one of that size, or larger, with raygen reference"
            raise SettingsError(what, where=self.file, right=right)

    def fitting(self, network: Network, shape: Shape, what: str) -> Reference:
        """Return the reference for images of ``shape``: of larger ones, the distribution of a part.

        A bounded reference is of the logits of pixels in 0..1, so it serves every network.

        Raises:
            SettingsError: as ``check`` does.
        """
        self.check(network, shape, what)
        part = marginal(self.reference, shape)
        return bound(part.base, network) if isinstance(part, Bounded) else part


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
        _check_choice(settings, saved)
        return saved.fitting(network, shape, f"a layer of {network.name}")
    if settings.reference == "fitted":
        if not isinstance(source, ImageSet):
            raise SettingsError("reference = 'fitted' without a data set", where="reference",
                                right="give --data as well, or the reference white or power-law")  # fmt: skip
        return _fit(settings, shape, network, source)[0]
    reference = _noise(settings, shape)
    return bound(reference, network) if settings.bounded else reference


def _noise(settings: TiltingSettings, shape: Shape) -> Reference:
    if settings.reference == "white" and settings.cutoff is None:
        return WhiteNoise(shape, settings.sigma)
    if settings.reference == "white":
        independent = tuple(map(tuple, torch.eye(shape[0]).tolist()))
        return PowerLaw.of(shape, settings.sigma, 0.0, independent, settings.cutoff)
    return PowerLaw.of(shape, settings.sigma, settings.exponent, cutoff=settings.cutoff)


def bound(reference: Reference, network: Network) -> Bounded:
    """Return images whose pixels, as the network's user sees them, are the logistic function of ``reference``'s."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (network.mean, network.std))
    return Bounded(reference, (0 - mean) / std, (1 - mean) / std)


def _check_choice(settings: TiltingSettings, saved: SavedReference) -> None:
    """Refuse what a saved reference was not made with.

    Raises:
        SettingsError: naming it.
    """
    wrong = "--cutoff" if settings.cutoff is not None else ""
    if settings.bounded and not isinstance(saved.reference, Bounded):
        wrong = "--bounded"
    if wrong:
        raise SettingsError(f"{wrong} with a saved reference, which was made without", where=saved.file,
                            right=f"give {wrong} to raygen reference, which makes the file")  # fmt: skip


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
        if settings.bounded:
            # A pixel of 8 bits stands for the middle of its interval, so that none is at a bound.
            return torch.logit((pixels.float() + 0.5) / 256)
        return (pixels.float() / 255 - mean) / std

    reference: Fitted | FittedSpectrum
    if math.prod(shape) <= LARGEST_COVARIANCE:
        reference = Fitted.of(to_input(patches), floor=settings.floor, scale=settings.scale)
    else:
        patches = patches[:_SPECTRUM_IMAGES]
        reference = FittedSpectrum.of(patches, floor=settings.floor, scale=settings.scale, to_input=to_input)
    gaussian = reference if settings.cutoff is None else low_passed(reference, settings.cutoff)
    return bound(gaussian, network) if settings.bounded else gaussian, len(patches)


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
        saved.check(network, cut_for(network, node, crop=crop).input_shape, f"node {node}")


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
