"""The rows of Parquet files: which columns hold pictures and labels, and the bytes of each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygen.data.decoding import Corrupt, Data
from raygen.data.footer import Chunk, RowGroup, read_footer
from raygen.data.listing import unknown_column
from raygen.data.order import Indices
from raygen.data.pages import CheckedFile, PageError
from raygen.documents import parse_json
from raygen.errors import DataError
from raygen.storage import Location, StoredFile

ROW_LIMIT = 2**27
"""Rows of a file: their labels alone would fill a gigabyte."""

GROUP_LIMIT = 2 * 2**30
"""Bytes of a row group; one that is larger is refused, since it must be held in memory as a whole."""

LABEL_LIMIT = 2 * 2**30
"""Bytes of the labels of a file."""

_READERS = 16
"""Files whose metadata are read at the same time."""

_WHOLE = "give whole Parquet files, or take this one out"

_IMAGE_NAMES = ("image", "img", "picture", "pixels")
_LABEL_NAMES = ("label", "labels", "class", "target", "fine_label")


@dataclass(frozen=True)
class ParquetRows:
    """Rows of files, numbered on from file to file.

    Attributes:
        location: the folder.
        files: their paths, relative to the folder.
        column: that holds the pictures.
        leaves: path of their bytes in each file, ``image`` or ``image.bytes``.
        group_files: (g,) which file each row group is in.
        group_numbers: (g,) its number in the file.
        group_starts: (g + 1,) its first row, and the number of rows.
        group_bytes: (g,) of its pictures.
        chunks: (c, 4), of each part of a group that holds pictures: the group, where in the file the part begins, its
            bytes there, and those that it unpacks to.
    """

    location: Location
    files: tuple[str, ...]
    column: str
    leaves: tuple[str, ...]
    group_files: Indices
    group_numbers: Indices
    group_starts: Indices
    group_bytes: Indices
    chunks: Indices

    def __len__(self) -> int:
        return int(self.group_starts[-1])

    def title(self, row: int) -> str:
        """Return the file, and the row in it."""
        file = int(self.group_files[self.group_of(row)])
        first = int(self.group_starts[np.searchsorted(self.group_files, file)])
        return f"{self.location.title}/{self.files[file]}, row {row - first}"

    def group_of(self, rows: Any) -> Any:
        """Return which row group each row is in."""
        return np.searchsorted(self.group_starts, rows, side="right") - 1

    def read(self, rows: Indices) -> list[Data]:
        """Return the pictures in rows, reading each row group once.

        Raises:
            StoreError: storage does not give a file.
            DataError: a file is damaged.
        """
        groups = self.group_of(rows)
        found: dict[int, Data] = {}
        for group in np.unique(groups).tolist():
            wanted = np.unique(rows[groups == group])
            column = self._column(group).take(pa.array(wanted - self.group_starts[group]))
            found.update(zip(wanted.tolist(), _bytes_of(column), strict=True))
        return [found[row] for row in rows.tolist()]

    def _column(self, group: int) -> Any:
        number, rows = int(self.group_files[group]), int(self.group_starts[group + 1] - self.group_starts[group])
        chunks = [
            Chunk((self.column,), values=rows, unpacked=unpacked, packed=packed, start=start)
            for _, start, packed, unpacked in self.chunks[self.chunks[:, 0] == group].tolist()
        ]
        leaf = self.leaves[number]  # and nothing of what else a struct holds
        with _opened(self.location, self.files[number], dictionary=leaf, chunks=chunks) as opened:
            column = opened.read_row_group(int(self.group_numbers[group]), columns=[leaf]).column(self.column)
        if len(column) != rows:
            raise DataError(f"has {len(column)} pictures in a row group, and its footer says {rows}",
                            where=f"{self.location.title}/{self.files[number]}", right=_WHOLE)  # fmt: skip
        return column


@dataclass(frozen=True)
class LabelledRows:
    """The rows of a split, their labels as they are written.

    Attributes:
        rows: that hold the pictures.
        labels: (n,) int64, indices into ``names``, or the numbers that are written; below 0 for none.
        names: what the labels stand for; None where numbers are written that nothing names.
        ordered: whether the files themselves number the classes so.
    """

    rows: ParquetRows
    labels: Indices
    names: tuple[str, ...] | None
    ordered: bool


def read_rows(
    location: Location, kind: str, files: Sequence[str], image: str | None, label: str | None
) -> LabelledRows:
    """Read labels and metadata of a split's files.

    Args:
        location: the folder.
        kind: the split's name, for messages.
        files: relative to the folder.
        image: column of the pictures, None to find it.
        label: column of the labels, None to find it.

    Raises:
        StoreError: storage does not give a file.
        DataError: no such columns, columns of other kinds, no rows, or a damaged file.
    """
    where = f"{location.title}/{files[0]}"
    with _opened(location, files[0]) as opened:
        schema = opened.schema_arrow
    features = _features(schema)
    image = _column_of(schema, features, "Image", image, _IMAGE_NAMES, where)
    label = _column_of(schema, features, "ClassLabel", label, _LABEL_NAMES, where)
    _check_columns(schema, image, label, where)
    with ThreadPoolExecutor(_READERS) as pool:
        parts = list(pool.map(lambda file: _read_file(location, file, image, label), files))
    labels, names, ordered = _unified([part[0] for part in parts], [f"{location.title}/{file}" for file in files])
    groups = [group for part in parts for group in part[1]]
    counts = np.array([group.rows for group in groups], dtype=np.int64)
    if not len(labels):
        raise DataError(f"the {kind} split is empty", where=where, right="give files with rows")
    rows = ParquetRows(
        location=location, files=tuple(files), column=image, leaves=tuple(part[2] for part in parts),
        group_files=np.repeat(np.arange(len(files)), [len(part[1]) for part in parts]),
        group_numbers=np.array([number for part in parts for number in range(len(part[1]))], dtype=np.int64),
        group_starts=np.concatenate([[0], counts.cumsum()]),
        group_bytes=np.array([_bytes_in(group, image) for group in groups], dtype=np.int64),
        chunks=np.array([(number, chunk.start, chunk.packed, chunk.unpacked) for number, group in enumerate(groups)
                         for chunk in group.chunks if chunk.path[0] == image], dtype=np.int64).reshape(-1, 4),
    )  # fmt: skip
    return LabelledRows(rows, labels, names, ordered)


@dataclass(frozen=True)
class _Labels:
    """The labels of one file: numbers, and what its own schema, or the words themselves, call them."""

    numbers: Indices
    names: tuple[str, ...] | None
    ordered: bool


def _labels_of(column: Any, names: Sequence[str] | None) -> _Labels:
    if pa.types.is_dictionary(column.type) and pa.types.is_integer(column.type.value_type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        numbers = column.cast(pa.int64()).fill_null(-1).to_numpy().astype(np.int64)
        return _Labels(numbers, None if names is None else tuple(names), ordered=names is not None)
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    chunks = encoded.unify_dictionaries().chunks
    written = chunks[0].dictionary.to_pylist() if chunks else []
    numbers = [chunk.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False) for chunk in chunks]
    found = np.concatenate([np.zeros(0, np.int64), *numbers]).astype(np.int64)
    # What is written for a picture without a label, where labels are words; and words that no row has are no classes.
    used = sorted({written[number] for number in np.unique(found).tolist() if number >= 0} - {"-1"})
    index_of = {name: index for index, name in enumerate(used)}
    table = np.array([index_of.get(name, -1) for name in written], dtype=np.int64)
    return _Labels(np.where(found < 0, -1, table[found.clip(0)] if len(table) else -1), tuple(used), ordered=False)


def _unified(parts: Sequence[_Labels], titles: Sequence[str]) -> tuple[Indices, tuple[str, ...] | None, bool]:
    """Return the labels of all files by the names of the first one, which others may number in another order.

    Raises:
        DataError: if files name other classes, or only some of them write words.
    """
    first = next((part for part in parts if part.names is not None), None)
    if first is None or first.names is None:
        return np.concatenate([part.numbers for part in parts]), None, False
    names = first.names
    if not first.ordered:
        names = tuple(sorted({name for part in parts for name in part.names or ()}))
    others = [title for part, title in zip(parts, titles, strict=True) if part.names not in (None, names)]
    if first.ordered and others and any(part.names is None for part in parts):
        raise DataError("numbers the classes otherwise than files whose numbers have no names", where=others[0],
                        right="write the class names in every file, or the same order")  # fmt: skip
    found = [_renamed(part, names, title, ordered=first.ordered) for part, title in zip(parts, titles, strict=True)]
    return np.concatenate(found), names, first.ordered


def _renamed(part: _Labels, names: tuple[str, ...], title: str, *, ordered: bool) -> Indices:
    """Return the labels of a file as indices into ``names``."""
    right = "write the same kind of labels, and the same class names, in every file"
    if part.names is None and not ordered:
        raise DataError("its labels are numbers, those of other files words", where=title, right=right)
    if part.names is None or part.names == names:
        return part.numbers  # numbers beside numbers with names stand for the same
    counts, own = Counter(names), Counter(part.names)
    odd = [name for name in part.names if counts[name] != 1 or own[name] != 1]
    if odd:
        raise DataError(f"its class {odd[0]!r} is not once among those of the first file", where=title, right=right)
    index_of = {name: index for index, name in enumerate(names)}
    table = np.array([index_of[name] for name in part.names], dtype=np.int64)
    wrong = part.numbers >= len(table)
    if wrong.any():
        raise DataError(f"label {int(part.numbers[wrong.argmax()])} is out of range", where=title,
                        right=f"labels are 0 to {len(table) - 1}, or -1 for none")  # fmt: skip
    if not len(table):
        return part.numbers
    return np.where(part.numbers < 0, part.numbers, table[part.numbers.clip(0)])


def _read_file(location: Location, file: str, image: str, label: str) -> tuple[_Labels, tuple[RowGroup, ...], str]:
    """Return a file's labels, its row groups, and the path of its pictures' bytes."""
    where = f"{location.title}/{file}"
    with location.open(file) as stream:
        with _parquet(stream, where) as opened:
            schema = opened.schema_arrow
        _check_columns(schema, image, label, where)
        written = _names_of(schema, label, where)
        groups = _groups_of(stream, where, image, label)
        words = not pa.types.is_integer(schema.field(label).type)
        chunks = [chunk for group in groups for chunk in group.chunks if chunk.path[0] == label]
        with _parquet(stream, where, dictionary=label if words else None, chunks=chunks) as opened:
            labels = _labels_of(opened.read(columns=[label]).column(label), written)
    if len(labels.numbers) != sum(group.rows for group in groups):
        raise DataError(f"has {len(labels.numbers)} labels, and its footer says otherwise", where=where,
                        right=_WHOLE)  # fmt: skip
    return labels, groups, _leaf(schema, image)


def _groups_of(stream: StoredFile, where: str, image: str, label: str) -> tuple[RowGroup, ...]:
    """Return a file's row groups, none of which is too large."""
    try:
        found = read_footer(stream, (image, label))
    except ValueError as error:
        raise DataError(f"cannot be read ({error})", where=where, right=_WHOLE) from None
    rows = sum(group.rows for group in found)
    if rows > ROW_LIMIT:
        raise DataError(f"holds {rows:,} rows, above {ROW_LIMIT:,}", where=where, right="write files with fewer rows")
    largest = max((_bytes_in(group, image) for group in found), default=0)
    if largest > GROUP_LIMIT:
        raise DataError(f"a row group of {largest:,} bytes, above {GROUP_LIMIT:,}", where=where,
                        right="write the file with smaller row groups")  # fmt: skip
    labels = sum(_bytes_in(group, label) for group in found)
    if labels > LABEL_LIMIT:
        raise DataError(f"labels of {labels:,} bytes, above {LABEL_LIMIT:,}", where=where, right=_WHOLE)
    return found


def _bytes_in(group: RowGroup, column: str) -> int:
    return sum(chunk.unpacked for chunk in group.chunks if chunk.path[0] == column)


@contextmanager
def _opened(
    location: Location, file: str, *, dictionary: str | None = None, chunks: Sequence[Chunk] = ()
) -> Iterator[Any]:
    """Open a Parquet file as pyarrow's; see ``_parquet``."""
    with (
        location.open(file) as stream,
        _parquet(stream, f"{location.title}/{file}", dictionary=dictionary, chunks=chunks) as opened,
    ):
        yield opened


@contextmanager
def _parquet(
    stream: StoredFile, where: str, *, dictionary: str | None = None, chunks: Sequence[Chunk] = ()
) -> Iterator[Any]:
    """Give a file as pyarrow's, and leave it open.

    Args:
        stream: the file.
        where: its title.
        dictionary: column of bytes or strings of which a value that is repeated is held once: a file of a few kilobytes
            may repeat one value until it fills the memory.
        chunks: of the columns that are read, which are checked before they are unpacked.

    Raises:
        StoreError: storage does not give it. This error passes through pyarrow unchanged: what pyarrow itself raises,
            often an OSError too, is about bytes that were read.
        DataError: from the block too, if the file's bytes are damaged.
    """
    held = None if dictionary is None else [dictionary]
    try:
        with pq.ParquetFile(CheckedFile(stream, chunks), read_dictionary=held) as opened:
            yield opened
    except (pa.ArrowException, OSError, PageError) as error:
        raise DataError(f"cannot be read ({error})", where=where, right=_WHOLE) from error


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return what the hub's own metadata say of the columns; nothing where there are none."""
    written = (schema.metadata or {}).get(b"huggingface")
    try:
        features = parse_json(written)["info"]["features"] if written else {}
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _names_of(schema: Any, label: str, where: str) -> list[str] | None:
    """Return the classes' names where the hub's metadata tell them."""
    names = _features(schema).get(label, {}).get("names")
    if names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        return names
    raise DataError(f"the names of the classes in {label!r} are no list of names", where=where, right=_WHOLE)


def _column_of(
    schema: Any, features: dict[str, dict[str, Any]], kind: str, asked: str | None, usual: Sequence[str], where: str
) -> str:
    if asked is not None:
        if asked not in schema.names:
            raise unknown_column(asked, schema.names, where)
        return asked
    marked = [name for name, feature in features.items() if feature.get("_type") == kind and name in schema.names]
    found = [*marked, *(name for name in usual if name in schema.names)]
    if not found:
        setting = "image_column" if kind == "Image" else "label_column"
        raise DataError(f"no column {' or '.join(usual)}", where=where,
                        right=f"give {setting}, one of {', '.join(schema.names)}")  # fmt: skip
    return found[0]


def _check_columns(schema: Any, image: str, label: str, where: str) -> None:
    for name in (image, label):
        if name not in schema.names:
            raise unknown_column(name, schema.names, where)
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"column {image!r} is {kind}, not images", where=where,
                        right="give a column of encoded pictures: binary, or a struct with bytes")  # fmt: skip
    kind = schema.field(label).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"column {label!r} is {kind}, not labels", where=where,
                        right="give a column of integers or strings")  # fmt: skip


def _leaf(schema: Any, column: str) -> str:
    return f"{column}.bytes" if pa.types.is_struct(schema.field(column).type) else column


def _bytes_of(column: Any) -> Iterator[Data]:
    """Give the bytes in each row of an image column."""
    for scalar in column:
        field = scalar["bytes"] if scalar.is_valid and pa.types.is_struct(scalar.type) else scalar
        if field.is_valid and pa.types.is_dictionary(field.type):
            field = field.value
        yield memoryview(field.as_buffer()) if field.is_valid else Corrupt("the row has no bytes")
