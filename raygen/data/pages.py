"""The pages of a Parquet file's columns, whose heads are looked at before pyarrow unpacks them.

A page of some kilobytes may unpack to two gigabytes, whatever the file's footer says of it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

from raygen.data.footer import Chunk
from raygen.data.thrift import Reader
from raygen.storage import StoredFile

_TIMES, _ROOM = 4, 2**20
"""How far the bytes in pages may be from what the footer says: writers do not count all the same."""


class PageError(ValueError):
    """What pages unpack to is not what the footer says, or is too much."""


def check_pages(data: bytes, chunk: Chunk) -> None:
    """Check that a column's pages unpack to about as much as the footer says.

    Args:
        data: the chunk's bytes in the file.
        chunk: what the footer says.

    Raises:
        PageError: if they unpack to more, or are damaged.
    """
    name, at, unpacked = ".".join(chunk.path), 0, 0
    try:
        while at < min(len(data), chunk.packed):
            reader = Reader(data, at)
            head = reader.struct(0)
            size, packed = head[2], head[3]
            unpacked += max(size, 0)
            at = reader.at + max(packed, 0)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise PageError(f"the pages of {name} are damaged ({error})") from None
    if unpacked > _TIMES * chunk.unpacked + _ROOM:
        raise PageError(f"the pages of {name} unpack to {unpacked:,} bytes, its footer says {chunk.unpacked:,}")


class CheckedFile(io.RawIOBase):
    """A stored file that checks the pages of columns as they are read: pyarrow reads those of a chunk at once.

    Args:
        stream: the file; it stays open.
        chunks: that are checked.

    Raises:
        PageError: where they are read, as ``check_pages`` does.
    """

    def __init__(self, stream: StoredFile, chunks: Iterable[Chunk]) -> None:
        self._stream = stream
        self._chunks = {chunk.start: chunk for chunk in chunks}

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte that is read."""
        return self._stream.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a position, as the file does."""
        return self._stream.seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes, as the file does."""
        chunk = self._chunks.get(self._stream.tell())
        data = self._stream.read(size)
        if chunk is not None and len(data) >= chunk.packed:
            check_pages(data, chunk)
        return data
