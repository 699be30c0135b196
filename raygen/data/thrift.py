"""Thrift's compact protocol, in which footers and heads of pages of Parquet files are written."""

from __future__ import annotations

from typing import Any

_MOST = 2**22
"""Values that are read."""

_DEEPEST = 16
_BITS = 64

_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, (9, 10), 12
"""Kinds of values; Parquet files have no maps."""


class Reader:
    """Reads values from some place on; ``at`` is where it has come to.

    It raises ValueError or IndexError where the values are damaged, or are too many.
    """

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at, self.left = data, at, _MOST

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
            raise ValueError("it holds too many values")
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
        raise ValueError(f"it is damaged (a value of kind {kind})")

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
        raise ValueError("it holds a number of more than 64 bits")

    def _byte(self) -> int:
        byte = self.data[self.at]
        self.at += 1
        return byte

    def _take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise ValueError("it is cut off")
        self.at += count
        return part
