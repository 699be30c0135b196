"""What training asks of its images, whether they lie in memory or stream from storage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Which part of a data set a process takes.

    Attributes:
        rank: of the process, from 0.
        processes: how many share the images.
    """

    rank: int = 0
    processes: int = 1


@dataclass(frozen=True)
class Batch:
    """One process's shard of a global batch.

    Attributes:
        images: (m, C, H, W) uint8; m may be 0.
        labels: (m,) int64; -1 is an image without label.
    """

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        if self.images.device == device:
            return self
        return Batch(self.images.to(device, non_blocking=True), self.labels.to(device, non_blocking=True))


class ImageSource(Protocol):
    """Labelled images of one shape, given batch by batch."""

    @property
    def name(self) -> str:
        """The data set's, for messages and pages."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One for each class."""

    @property
    def labels(self) -> Tensor:
        """(n,) int64 of all images, indices into ``class_names``; -1 is an image without label."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the images that this process could not read in its last pass."""

    def __len__(self) -> int:
        """How many images."""

    def to(self, device: torch.device) -> Self:
        """Return the source for use on a device: images in memory go there, others are prepared to."""

    def steps(self, batch_size: int, processes: int) -> int:
        """Return how many global batches an epoch has."""

    def epoch(self, seed: int, number: int, batch_size: int, share: Share) -> Iterator[Batch]:
        """Give this process's shard of every global batch of an epoch.

        The order of the images comes from (seed, number) alone. Over all processes each image is given once, less
        those that cannot be read; every process gets ``steps(batch_size, processes)`` batches, of which some may be
        empty.
        """

    def once(self, batch_size: int, share: Share) -> Iterator[Batch]:
        """Give this process's share of the images, each once, in order and without augmentation."""
