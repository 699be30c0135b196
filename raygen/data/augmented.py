"""Images in memory that are changed at random while they are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raygen.data.augment import augmented
from raygen.data.images import ImageSet
from raygen.data.settings import Augment
from raygen.data.source import Batch, Share


@dataclass(frozen=True)
class AugmentedSet:
    """A set whose epochs give its images moved or mirrored; see ``ImageSource``.

    Attributes:
        images: the set.
        augment: "flip" or "crop-flip".
    """

    images: ImageSet
    augment: Augment

    def __len__(self) -> int:
        return len(self.images)

    @property
    def name(self) -> str:
        """The set's."""
        return self.images.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """The set's."""
        return self.images.class_names

    @property
    def labels(self) -> Tensor:
        """The set's."""
        return self.images.labels

    @property
    def skipped(self) -> tuple[str, ...]:
        """Nothing: what lies in memory has been read."""
        return ()

    def to(self, device: torch.device) -> AugmentedSet:
        """Return the set with its images and labels on a device."""
        return AugmentedSet(self.images.to(device), self.augment)

    def steps(self, batch_size: int, processes: int) -> int:
        """Return how many global batches an epoch has."""
        return self.images.steps(batch_size, processes)

    def epoch(self, seed: int, number: int, batch_size: int, share: Share) -> Iterator[Batch]:
        """Give this process's shard of every global batch, changed; see ``ImageSource``."""
        order = self.images.order(seed, number)
        batches = self.images.epoch(seed, number, batch_size, share)
        for start, batch in zip(range(0, len(order), batch_size), batches, strict=True):
            mine = order[start : start + batch_size][share.rank :: share.processes]
            yield Batch(augmented(batch.images, mine, self.augment, seed, number), batch.labels)

    def once(self, batch_size: int, share: Share) -> Iterator[Batch]:
        """Give this process's share, unchanged; see ``ImageSource``."""
        return self.images.once(batch_size, share)
