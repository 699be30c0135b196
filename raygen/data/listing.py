"""What a data set of pictures is before its pixels are read: labels, names, and where the bytes lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from raygen.data.decoding import Data
from raygen.data.images import stratified_split
from raygen.data.order import Indices, Plan
from raygen.data.source import Share
from raygen.errors import DataError, StoreError, closest
from raygen.storage import Location

TEST_NAMES = ("test", "val", "validation")
"""What the images for testing may be called, the first that is there being taken."""

SPLIT_SEED = 0
"""Of the fixed random order in which a limit takes images, and of the split where there are none for testing."""


class Listing(Protocol):
    """Labelled pictures on storage; small enough to be sent to whoever reads them."""

    @property
    def name(self) -> str:
        """The data set's."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One for each class."""

    @property
    def labels(self) -> Tensor:
        """(n,) int64; -1 is a picture without label."""

    def title(self, index: int) -> str:
        """Return where the picture with this index lies, for messages."""

    def read(self, indices: Indices) -> Sequence[Data]:
        """Return the bytes of pictures, in the order of ``indices``.

        Raises:
            StoreError: storage does not answer, or a file is gone: what was not read is never taken for corrupt.
            DataError: a file that holds many pictures is damaged.
        """

    def epoch(self, seed: int, number: int, batch_size: int, share: Share) -> Plan:
        """Return what a process reads in an epoch, one entry of ``sizes`` for each global batch."""

    def once(self, batch_size: int, share: Share) -> Plan:
        """Return what a process reads where each picture is looked at once."""


def open_folder(data_root: str) -> Location:
    """Return the folder of a data set, a path or a URI.

    Raises:
        DataError: if the URI's scheme is unknown, its storage cannot be reached, or there is no such folder.
    """
    try:
        location = Location.of(data_root)
    except StoreError as error:
        raise DataError(error.what, where=f"data_root {error.where}", right=error.right) from None
    if not location.exists(""):
        raise DataError("no pictures: there is no such folder", where=f"data_root {location.title}",
                        right="give a folder of pictures or of Parquet files")  # fmt: skip
    return location


def split(labels: Tensor, limit: int | None) -> tuple[Tensor, Tensor]:
    """Choose a fifth of each class for testing: indices of both splits, each in a fixed random order, up to a limit."""
    train, test = stratified_split(labels, test_part=0.2, seed=SPLIT_SEED)
    return train[:limit], test[:limit]


def shuffled(n: int, limit: int | None) -> Tensor:
    """Return the first ``limit`` of ``n`` indices in a fixed random order."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(SPLIT_SEED))[:limit]


def check_classes(where: str, labels: Tensor, class_names: Sequence[str]) -> None:
    """Refuse training pictures among which a class has none.

    Raises:
        DataError: naming the class.
    """
    counts = labels[labels >= 0].bincount(minlength=len(class_names))
    absent = [name for name, count in zip(class_names, counts.tolist(), strict=True) if not count]
    if absent:
        more = f" (nor have {len(absent) - 1} others)" if len(absent) > 1 else ""
        raise DataError(f"class {absent[0]!r} has no picture for training{more}", where=where,
                        right="give it pictures, or take it out")  # fmt: skip


def check_same(where: str, train: Sequence[str], test: Sequence[str]) -> None:
    """Refuse splits whose classes differ.

    Raises:
        DataError: naming a class that only one has.
    """
    if odd := sorted(set(train) ^ set(test)):
        raise DataError(f"class {odd[0]!r} is in one split only", where=where, right="give both the same classes")
    if tuple(train) != tuple(test):
        raise DataError("the splits number their classes differently", where=where,
                        right="give both the same classes in the same order")  # fmt: skip


def unknown_column(name: str, columns: Sequence[str], where: str) -> DataError:
    """Return the error for a column that is not there."""
    return DataError(f"no column {name!r}", where=where, right=closest(name, columns))
