"""The Gaussian of a data set of small images, by its full covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from raygen.tilting.references.base import Reference, check_above_zero, check_images

LARGEST_COVARIANCE = 4096
"""Values of an image above which its spectrum is fitted, not its covariance, whose root alone would take 64 MB."""


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

        Raises:
            ScoreError: if there are no images, or floor or scale is not above 0.
        """
        check_images(images)
        check_above_zero("floor", floor)
        check_above_zero("scale", scale)
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
