"""What a data set of pictures is before its pixels are read: labels, names, and where the bytes lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyarrow import fs
from torch import Tensor

from raygen.data.decoding import Data
from raygen.data.images import stratified_split
from raygen.data.order import Plan
from raygen.data.source import Share
from raygen.errors import DataError, closest

TEST_NAMES = ("test", "val", "validation")
"""What the images for testing may be called, the first that is there being taken."""

SPLIT_SEED = 0
"""Of the fixed random order in which a limit takes images, and of the split where there are none for testing."""

Indices = NDArray[np.int64]


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
        """Return pictures' files, in the order of ``indices``.

        Raises:
            DataError: a file that holds many pictures cannot be read.
        """

    def epoch(self, seed: int, number: int, batch_size: int, share: Share) -> Plan:
        """Return what a process reads in an epoch, one entry of ``sizes`` for each global batch."""

    def once(self, batch_size: int, share: Share) -> Plan:
        """Return what a process reads where each picture is looked at once."""


@dataclass(frozen=True)
class Place:
    """A folder on local disk or behind a URI; ``text`` is for messages: what the user wrote, without secrets."""

    text: str
    filesystem: Any
    root: str

    @classmethod
    def of(cls, text: str) -> Place:
        """Take a path or a URI.

        Raises:
            DataError: if the URI's scheme is unknown or its storage cannot be reached.
        """
        if "://" not in text:
            return cls(text.rstrip("/") or "/", fs.LocalFileSystem(), str(Path(text).expanduser().absolute()))
        shown = _shown(text)
        try:
            filesystem, root = fs.FileSystem.from_uri(text)
        except (pa.ArrowException, OSError, ValueError) as error:
            right = "give a path or a URI that pyarrow.fs knows (file://, s3://, gs://, abfs://, hdfs://)"
            raise DataError(f"no storage behind this address ({error})", where=f"data_root {shown}",
                            right=right) from None  # fmt: skip
        return cls(shown, filesystem, root.rstrip("/"))

    @property
    def name(self) -> str:
        """The folder's own."""
        return self.root.rsplit("/", 1)[-1]

    def entries(self, folder: str = "", *, recursive: bool = False) -> list[tuple[str, bool]]:
        """Return what is in a folder below this one: names relative to it, and whether each is a folder; sorted.

        Raises:
            DataError: if it is not there or cannot be listed.
        """
        base = f"{self.root}/{folder}" if folder else self.root
        try:
            infos = self.filesystem.get_file_info(fs.FileSelector(base, recursive=recursive))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"no pictures ({error})", where=f"data_root {self.text}",
                            right="give a folder of pictures or of Parquet files") from None  # fmt: skip
        names = ((info.path[len(base) :].lstrip("/"), info.type == fs.FileType.Directory) for info in infos)
        return sorted((name, is_folder) for name, is_folder in names if not _is_hidden(name))


def _shown(uri: str) -> str:
    """Leave out what may hold a password: the user, and the options."""
    scheme, _, rest = uri.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


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
