"""Parquet files of pictures as the Hugging Face hub lays them out, on local disk or behind a URI."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from raygen.data.decoding import Data
from raygen.data.listing import (
    SPLIT_SEED,
    TEST_NAMES,
    check_classes,
    check_same,
    open_folder,
    shuffled,
    split,
)
from raygen.data.order import Groups, Indices, Plan, plan_grouped_epoch, plan_grouped_once
from raygen.data.parquet_files import LabelledRows, ParquetRows, read_rows
from raygen.data.source import Share
from raygen.errors import DataError
from raygen.storage import Location

_WRONG = -2
"""A label that no class has."""

_LEAST_GROUPS = 32
"""From so many row groups a limit takes its rows, where there are as many."""


@dataclass(frozen=True)
class ParquetListing:
    """Pictures in the rows of Parquet files.

    Attributes:
        name: of the data set.
        class_names: one for each class.
        labels: (n,) int64; -1 is a picture without label.
        files: the rows of the split's files.
        rows: (n,) int64, those that belong to the listing, rising.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Tensor
    files: ParquetRows
    rows: Indices

    def title(self, index: int) -> str:
        """Return the file and the row in it; see ``Listing``."""
        return self.files.title(int(self.rows[index]))

    def read(self, indices: Indices) -> list[Data]:
        """Return the pictures' bytes, reading each row group once; see ``Listing``."""
        return self.files.read(self.rows[indices])

    def epoch(self, seed: int, number: int, batch_size: int, share: Share) -> Plan:
        """Plan an epoch; see ``Listing``."""
        return plan_grouped_epoch(self._groups, seed, number, batch_size, share)

    def once(self, batch_size: int, share: Share) -> Plan:
        """Plan a look at each picture; see ``Listing``."""
        return plan_grouped_once(self._groups, batch_size, share)

    def subset(self, indices: Tensor) -> ParquetListing:
        """Return the pictures at ``indices``, in the order of the files."""
        chosen = indices.sort().values
        return replace(self, labels=self.labels[chosen], rows=self.rows[chosen.numpy()])

    def limited(self, limit: int | None) -> ParquetListing:
        """Return at most ``limit`` pictures, taken at random, always the same, from as few row groups as will do."""
        if limit is None or limit >= len(self.rows):
            return self
        order = np.random.default_rng(SPLIT_SEED).permutation(len(self.files.group_bytes))
        held = np.diff(np.searchsorted(self.rows, self.files.group_starts))[order].cumsum()
        count = max(int(np.searchsorted(held, limit)) + 1, _LEAST_GROUPS)
        near = np.flatnonzero(np.isin(self.files.group_of(self.rows), order[:count]))
        return self.subset(torch.from_numpy(near[shuffled(len(near), limit).numpy()]))

    @cached_property
    def _groups(self) -> Groups:
        starts = np.searchsorted(self.rows, self.files.group_starts)
        full = np.diff(starts) > 0
        return Groups(np.append(starts[:-1][full], len(self.rows)), self.files.group_bytes[full])


def list_parquet(
    root: str, *, limit: int | None = None, image_column: str | None = None, label_column: str | None = None
) -> tuple[ParquetListing, ParquetListing]:
    """List the training and the test pictures of a folder of Parquet files.

    Args:
        root: path or URI; it, or ``data`` below it, holds ``train-*.parquet`` and ``test-*.parquet`` (or ``val-*``,
            ``validation-*``), or folders of these names. Without files for testing, or with none that are labelled, a
            fifth of each class, always the same, becomes the test set.
        limit: use this many pictures of each split at most.
        image_column: struct with a field ``bytes``, or binary; None takes the one that the schema calls an image.
        label_column: integers or strings; None takes the one that the schema calls a class label. Where the schema
            does not name the classes, the labels that occur in training are their names.

    Raises:
        StoreError: storage does not answer.
        DataError: no such files, no such columns, columns of other kinds, or labels that are out of range.
    """
    location = open_folder(root)
    files = _files(location)
    if "train" not in files:
        right = "give a folder with files train-*.parquet, or a folder train of Parquet files"
        raise DataError("no Parquet files for training", where=f"data_root {location.title}", right=right)
    read = read_rows(location, "train", files["train"], image_column, label_column)
    class_names = read.names or tuple(str(value) for value in np.unique(read.labels[read.labels >= 0]).tolist())
    numbers = read.names is None
    train = _numbered(location.name, read, class_names, numbers=numbers)
    check_classes(f"data_root {location.title}", train.labels, class_names)
    for name in TEST_NAMES:
        if name not in files:
            continue
        read = read_rows(location, name, files[name], image_column, label_column)
        if read.names is not None and read.ordered:
            in_order = len(set(class_names)) < len(class_names)  # two that bear one name are told apart by their order
            check_same(location.title, *(names if in_order else sorted(names) for names in (class_names, read.names)))
        test = _numbered(location.name, read, class_names, numbers=numbers)
        # The hub's ImageNet, for one, has a test split whose labels are all -1.
        if (test.labels >= 0).any():
            return train.limited(limit), test.limited(limit)
    return _halved(train, limit)


def _halved(listing: ParquetListing, limit: int | None) -> tuple[ParquetListing, ParquetListing]:
    """Take a fifth of each class for testing."""
    known = (listing.labels >= 0).nonzero().squeeze(1)
    chosen = [known[rows] for rows in split(listing.labels[known], None)]
    if not len(chosen[1]):
        raise DataError("no picture is left for testing", where=f"data_root {listing.files.location.title}",
                        right="give files test-*.parquet, or two pictures or more of a class")  # fmt: skip
    train = torch.cat((chosen[0], (listing.labels < 0).nonzero().squeeze(1)))
    return listing.subset(train).limited(limit), listing.subset(chosen[1]).limited(limit)


def _files(location: Location) -> dict[str, list[str]]:
    """Find the Parquet files of each split."""
    found: dict[str, list[str]] = {}
    for name, kind in location.entries(recursive=True, hidden=False):
        *folders, file = name.removeprefix("data/").split("/")
        if kind == "folder" or not file.endswith(".parquet") or len(folders) > 1:
            continue
        part = folders[0] if folders else file.removesuffix(".parquet").split("-")[0]
        if part == "train" or part in TEST_NAMES:
            found.setdefault(part, []).append(name)
    return found


def _numbered(name: str, read: LabelledRows, class_names: tuple[str, ...], *, numbers: bool) -> ParquetListing:
    """Return the listing of a split, its labels as indices into the class names.

    Args:
        name: of the data set.
        read: the split.
        class_names: of the training pictures.
        numbers: whether these are numbers, which stand for themselves.
    """
    index_of = {text: index for index, text in enumerate(class_names)}
    # Where the names are the same, two classes may bear one name, as two cranes do.
    as_they_are = read.names == class_names or (read.names is None and not numbers)
    values, rows = np.unique(read.labels, return_inverse=True)
    found = np.full(len(values), _WRONG, dtype=np.int64)
    for at, value in enumerate(values.tolist()):
        if value == -1 or (as_they_are and 0 <= value < len(class_names)):
            found[at] = value
        elif not as_they_are and value >= 0:
            found[at] = index_of.get(_written(read, value), _WRONG)
    labels = found[rows]
    if (labels == _WRONG).any():
        row = int((labels == _WRONG).argmax())
        value = int(read.labels[row])
        what = f"label {_written(read, value)!r} is out of range" if read.names and not read.ordered else ""
        right = f"labels are among those in training, {', '.join(class_names[:5])}..."
        if not what:
            what, right = f"label {value} is out of range", f"labels are 0 to {len(class_names) - 1}, or -1 for none"
        raise DataError(what, where=read.rows.title(row), right=right)
    return ParquetListing(name, class_names, torch.from_numpy(labels), read.rows, np.arange(len(labels)))


def _written(read: LabelledRows, value: int) -> str:
    return read.names[value] if read.names is not None and value < len(read.names) else str(value)
