"""Labelled images in memory, given as they are or changed at random."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from raygen.data.augment import augmented, uniforms
from raygen.data.settings import Augment
from raygen.data.source import Batch, Share


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one shape.

    Attributes:
        name: of the data set, for messages and pages.
        images: (n, C, H, W) uint8, 0 is black.
        labels: (n,) int64, indices into ``class_names``; -1 is an image without label.
        class_names: one for each class.
        shuffled: whether each epoch has an order of its own; otherwise all have the set's.
    """

    name: str
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    shuffled: bool = True

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(f"images are (n, C, H, W) uint8, not {tuple(self.images.shape)} {self.images.dtype}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels are (n,) int64, not {tuple(self.labels.shape)} {self.labels.dtype}")
        if len(self.labels) and not -1 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            raise ValueError(f"labels are -1 or an index into the {len(self.class_names)} class names")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def subset(self, indices: Tensor | Sequence[int]) -> ImageSet:
        """Return the images at ``indices``, in their order; IndexError where there is no such image."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def first(self, limit: int | None) -> ImageSet:
        """Return the first ``limit`` images, or the set itself where it has no more or there is no limit."""
        return self if limit is None or limit >= len(self) else self.subset(range(limit))

    @property
    def skipped(self) -> tuple[str, ...]:
        """Nothing: what lies in memory has been read."""
        return ()

    def to(self, device: torch.device) -> ImageSet:
        """Return the set with its images and labels on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def steps(self, batch_size: int, processes: int) -> int:
        """Return how many global batches an epoch has."""
        return math.ceil(len(self) / batch_size)

    def order(self, seed: int, number: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the order of the images in an epoch, (n,) int64."""
        return epoch_order(len(self), seed, number) if self.shuffled else np.arange(len(self))

    def epoch(self, seed: int, number: int, batch_size: int, share: Share) -> Iterator[Batch]:
        """Give this process's shard of every global batch; see ``ImageSource``."""
        order = torch.from_numpy(self.order(seed, number)).to(self.labels.device)
        for batch in order.split(batch_size):  # type: ignore[no-untyped-call]
            mine = batch[share.rank :: share.processes]
            yield Batch(self.images[mine], self.labels[mine])

    def once(self, batch_size: int, share: Share) -> Iterator[Batch]:
        """Give this process's share: every ``processes``-th batch, in order; see ``ImageSource``."""
        for start in range(share.rank * batch_size, len(self), share.processes * batch_size):
            batch = slice(start, start + batch_size)
            yield Batch(self.images[batch], self.labels[batch])


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
        draws = uniforms(seed, number, 0, len(order))
        batches = self.images.epoch(seed, number, batch_size, share)
        for start, batch in zip(range(0, len(order), batch_size), batches, strict=True):
            mine = order[start : start + batch_size][share.rank :: share.processes]
            yield Batch(augmented(batch.images, draws[mine], self.augment), batch.labels)

    def once(self, batch_size: int, share: Share) -> Iterator[Batch]:
        """Give this process's share, unchanged; see ``ImageSource``."""
        return self.images.once(batch_size, share)


def epoch_order(n: int, seed: int, number: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the order of ``n`` images in an epoch: a permutation, (n,) int64, that (seed, number) alone decide."""
    return np.random.default_rng((seed, number)).permutation(n)


def hash_images(images: ImageSet) -> str:
    """Return the SHA-256 (hex) of the pixels and their shape; labels do not count."""
    digest = hashlib.sha256(str(tuple(images.images.shape)).encode())
    digest.update(images.images.contiguous().cpu().numpy().data)
    return digest.hexdigest()


def stratified_split(labels: Tensor, *, test_part: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split images so that each class has the same part of its images in the test set, rounded.

    Args:
        labels: (n,) int64.
        test_part: from 0 to 1; every class keeps at least one image for training.
        seed: of the choice and of the order.

    Returns:
        Indices of the training images and of the test images, each in random order, so that the first of either
        are of all classes.
    """
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=draw)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in set(labels.tolist()):
        rows = order[labels[order] == label]
        is_test[rows[: min(round(test_part * len(rows)), len(rows) - 1)]] = True
    # A second order, since the first one gave its front to the test set.
    order = torch.randperm(len(labels), generator=draw)
    return order[~is_test[order]], order[is_test[order]]
