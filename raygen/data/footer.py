"""What the footer of a Parquet file says of its rows and columns, read and checked before pyarrow believes it.

pyarrow ends the whole process on some footers that are damaged, and takes the sizes in others as they are.
The format is Thrift's compact protocol: https://github.com/apache/parquet-format, file ``parquet.thrift``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raygen.storage import StoredFile

_MAGIC = b"PAR1"
_TAIL = 8
"""Bytes behind the footer: its length and the magic."""

_LARGEST = 2**26
"""Bytes of a footer; those of files with thousands of row groups take a hundredth."""

_MOST = 2**22
"""Values in a footer."""

_DEEPEST = 16
_BITS = 64

_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, (9, 10), 12
"""Thrift's kinds of values; maps are not in these files."""


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
    size = stream.seek(0, 2)
    stream.seek(max(size - _TAIL, 0))
    tail = stream.read(_TAIL)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length + _TAIL + len(_MAGIC) > size:
        raise ValueError("it does not end as a Parquet file")
    if length > _LARGEST:
        raise ValueError(f"its footer is of {length:,} bytes, above {_LARGEST:,}")
    stream.seek(size - _TAIL - length)
    try:
        footer = _Reader(stream.read(length)).struct(0)
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


class _Reader:
    """Reads values of the compact protocol; no more than so many of them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.left = data, 0, _MOST

    def struct(self, depth: int) -> dict[int, Any]:
        """Return a struct's values by the numbers of its fields."""
        values: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._signed()
            values[field] = self._value(head & 15, depth)
        return values

    def _value(self, kind: int, depth: int) -> Any:
        self.left -= 1
        if self.left < 0 or depth > _DEEPEST:
            raise ValueError("its footer holds too many values")
        if kind in _INTEGERS:
            return self._signed()
        if kind in (_BINARY, _DOUBLE):
            return self._take(self._varint() if kind == _BINARY else 8)
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in _LISTS:
            return self._list(depth + 1)
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte() if kind == _BYTE else kind == _TRUE
        raise ValueError(f"its footer is damaged (a value of kind {kind})")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count, kind = head >> 4, head & 15
        if count == 15:
            count = self._varint()
        if kind in (_TRUE, _FALSE):
            return [self._byte() == _TRUE for _ in range(min(count, len(self.data)))]
        return [self._value(kind, depth) for _ in range(count)]

    def _signed(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = shift = 0
        while shift < _BITS:
            byte = self._byte()
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number
        raise ValueError("its footer holds a number of more than 64 bits")

    def _byte(self) -> int:
        byte = self.data[self.at]
        self.at += 1
        return byte

    def _take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise ValueError("its footer is cut off")
        self.at += count
        return part
