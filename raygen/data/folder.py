"""Folders of pictures, one sub-folder for each class, on local disk or behind a URI."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from raygen.data.decoding import Data
from raygen.data.listing import TEST_NAMES, check_classes, check_same, open_folder, shuffled, split
from raygen.data.order import Indices, Plan, plan_epoch, plan_once
from raygen.data.source import Share
from raygen.errors import DataError
from raygen.storage import Entry, Location

log = logging.getLogger(__name__)

UNLABELLED = "unlabelled"
"""The folder whose pictures join the training images without a label."""


@dataclass(frozen=True)
class FolderListing:
    """Pictures in files of their own.

    Attributes:
        name: of the data set.
        class_names: one for each class.
        labels: (n,) int64; -1 is a picture without label.
        location: the folder.
        paths: (n,) pyarrow strings, relative to the folder.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Tensor
    location: Location
    paths: Any

    def title(self, index: int) -> str:
        """Return the picture's path; see ``Listing``."""
        return f"{self.location.title}/{self.paths[index].as_py()}"

    def read(self, indices: Indices) -> list[Data]:
        """Return the files' bytes; see ``Listing``."""
        return [self.location.read(self.paths[int(index)].as_py()) for index in indices]

    def epoch(self, seed: int, number: int, batch_size: int, share: Share) -> Plan:
        """Plan an epoch; see ``Listing``."""
        return plan_epoch(len(self.labels), seed, number, batch_size, share)

    def once(self, batch_size: int, share: Share) -> Plan:
        """Plan a look at each picture; see ``Listing``."""
        return plan_once(len(self.labels), batch_size, share)

    def subset(self, indices: Tensor) -> FolderListing:
        """Return the pictures at ``indices``, in their order."""
        return replace(self, labels=self.labels[indices], paths=self.paths.take(pa.array(indices.numpy())))


def list_folder(root: str, *, limit: int | None = None) -> tuple[FolderListing, FolderListing]:
    """List the training and the test pictures of a folder.

    Args:
        root: path or URI; holds ``train`` and ``test`` (or ``val``, ``validation``) with a sub-folder for each class;
            or the sub-folders themselves, of which a fifth of each class, always the same, becomes the test set.
            Pictures below ``unlabelled`` beside them join the training pictures with label -1.
        limit: use this many pictures of each split at most, in a fixed random order; of those without label, too.

    Raises:
        StoreError: storage does not answer.
        DataError: no such folder, no pictures, a class without any for training, or classes that differ.
    """
    location = open_folder(root)
    folders = [entry.name for entry in location.entries(hidden=False) if entry.is_folder]
    test_name = next((name for name in TEST_NAMES if name in folders), None)
    where = f"data_root {location.title}"
    if "train" in folders and test_name is not None:
        train, test = _listed(location, "train"), _listed(location, test_name)
        check_same(location.title, train.class_names, test.class_names)
        chosen = shuffled(len(train.labels), limit), shuffled(len(test.labels), limit)
    else:
        alone = "train" if set(folders) - {UNLABELLED} == {"train"} else ""
        train = test = _listed(location, alone)
        chosen = split(train.labels, limit)
    check_classes(where, train.labels, train.class_names)
    if not len(chosen[1]):
        right = "give folders train and test, or two pictures or more of a class"
        raise DataError("no picture is left for testing", where=where, right=right)
    train, test = train.subset(chosen[0]), test.subset(chosen[1])
    return (_with_unlabelled(train, limit) if UNLABELLED in folders else train), test


def _listed(location: Location, folder: str) -> FolderListing:
    """List the pictures below the sub-folders of a folder, each a class, sorted."""
    found = [entry for entry in location.entries(folder, recursive=True, hidden=False)
             if folder or entry.name.split("/")[0] != UNLABELLED]  # fmt: skip
    pictures = [entry.name for entry in found if _is_picture(entry) and "/" in entry.name]
    if others := [entry.name for entry in found if not entry.is_folder and not _is_picture(entry)]:
        log.warning("data %s: %d files are no pictures by their kinds or endings, such as %s",
                    location.title, len(others), others[0])  # fmt: skip
    classes = {entry.name.split("/")[0] for entry in found if entry.is_folder or "/" in entry.name}
    where = f"data_root {location.title}{f'/{folder}' if folder else ''}"
    if not pictures:
        raise DataError(
            "no pictures", where=where, right="give a folder with one sub-folder of pictures for each class"
        )
    class_names = tuple(sorted(classes))
    index_of = {name: index for index, name in enumerate(class_names)}
    # Class by class, and within one folder by folder.
    pictures.sort(key=lambda name: (name.split("/", 1)[0], *name.rpartition("/")[::2]))
    labels = np.array([index_of[name.split("/", 1)[0]] for name in pictures], dtype=np.int64)
    paths = pa.array([f"{folder}/{name}" if folder else name for name in pictures], pa.large_string())
    return FolderListing(location.name, class_names, torch.from_numpy(labels), location, paths)


def _with_unlabelled(train: FolderListing, limit: int | None) -> FolderListing:
    found = train.location.entries(UNLABELLED, recursive=True, hidden=False)
    names = [f"{UNLABELLED}/{entry.name}" for entry in found if _is_picture(entry)]
    more = pa.array(names, pa.large_string()).take(pa.array(shuffled(len(names), limit).numpy()))
    labels = torch.cat((train.labels, torch.full((len(more),), -1)))
    return replace(train, labels=labels, paths=pa.concat_arrays([train.paths, more]))


def _is_picture(entry: Entry) -> bool:
    # A pipe or a device may bear any name.
    return entry.kind == "file" and entry.name.lower().endswith(IMG_EXTENSIONS)
