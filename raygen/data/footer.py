"""What the footer of a Parquet file says of its rows and columns, read and checked before pyarrow believes it.

pyarrow ends the whole process on some footers that are damaged, and takes the sizes in others as they are.
Numbers of fields are those of https://github.com/apache/parquet-format, file ``parquet.thrift``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raygen.data.thrift import Reader
from raygen.storage import StoredFile

_MAGIC = b"PAR1"
_TAIL = 8
"""Bytes behind the footer: its length and the magic."""

_AT_ONCE = 2**16
"""Bytes that are read from the file's end; footers are seldom longer."""

_LARGEST = 2**26
"""Bytes of a footer; those of files with thousands of row groups take a hundredth."""


@dataclass(frozen=True)
class Chunk:
    """A column in a row group.

    Attributes:
        path: of the column, such as ("image", "bytes").
        values: how many.
        unpacked: bytes of its pages, as they are when unpacked.
        packed: bytes of its pages in the file.
        start: where in the file they begin.
    """

    path: tuple[str, ...]
    values: int
    unpacked: int
    packed: int
    start: int


@dataclass(frozen=True)
class RowGroup:
    """Rows that lie together: how many, and their columns."""

    rows: int
    chunks: tuple[Chunk, ...]


def read_footer(stream: StoredFile, columns: Sequence[str]) -> tuple[RowGroup, ...]:
    """Return the row groups of a Parquet file with the chunks of some columns, none of which holds lists.

    Args:
        stream: the file.
        columns: names of the outermost columns whose chunks are returned and checked.

    Raises:
        ValueError: if the footer is damaged, or what it says cannot be so.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(size - _AT_ONCE, 0))
    end = stream.read()
    length = int.from_bytes(end[-_TAIL:-4], "little")
    if end[-4:] != _MAGIC or length + _TAIL + len(_MAGIC) > size:
        raise ValueError("it does not end as a Parquet file")
    if length > _LARGEST:
        raise ValueError(f"its footer is of {length:,} bytes, above {_LARGEST:,}")
    if length + _TAIL > len(end):
        stream.seek(size - _TAIL - length)
        end = stream.read()
    try:
        footer = Reader(end[-_TAIL - length : -_TAIL]).struct(0)
        groups = tuple(_group(each, columns, size - _TAIL - length) for each in footer[4])
        rows = footer[3]
    except (LookupError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"its footer is damaged ({type(error).__name__})") from None
    if sum(group.rows for group in groups) != rows:
        raise ValueError(f"its footer says {rows} rows, and other numbers of its row groups")
    return groups


def _group(said: dict[int, Any], columns: Sequence[str], end: int) -> RowGroup:
    rows = said[3]
    if rows < 0:
        raise ValueError(f"its footer says {rows} rows")
    chunks = (_chunk(each[3]) for each in said[1])
    group = RowGroup(rows, tuple(chunk for chunk in chunks if chunk.path[0] in columns))
    for chunk in group.chunks:
        name = ".".join(chunk.path)
        if chunk.values != rows:
            raise ValueError(f"its footer says {chunk.values} values of {name} in {rows} rows")
        if min(chunk.packed, chunk.unpacked) < 0 or chunk.start < len(_MAGIC) or chunk.start + chunk.packed > end:
            raise ValueError(f"its footer says that {name} lies beyond the file")
    return group


def _chunk(said: dict[int, Any]) -> Chunk:
    # The dictionary comes first; older writers say 0 where there is none.
    starts = [start for start in (said.get(11, 0), said[9]) if start > 0]
    path = tuple(part.decode() for part in said[3])
    return Chunk(path, values=said[5], unpacked=said[6], packed=said[7], start=min(starts, default=0))
