"""A file on storage that is read in parts, each tried again where storage fails for a moment."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from typing import BinaryIO


class StoredFile(io.RawIOBase):
    """A file read from any position, a context; libraries that take Python's files take it.

    Args:
        reopen: opens it; called again after a failure, since a connection may be gone.
        persist: returns what a function does, called as often as may help.

    Raises:
        StoreError: here and where it is read, if the storage fails for good. It is no OSError, so that it cannot be
            taken for what a library finds wrong in the bytes.
    """

    def __init__(self, reopen: Callable[[], BinaryIO], persist: Callable[[Callable[[], bytes]], bytes]) -> None:
        self._reopen, self._persist = reopen, persist
        self._stream: BinaryIO | None = None
        self._position = self._size = 0
        self._persist(lambda: self._part(0))

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte that is read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a position, counted from the beginning, from here (1) or from the end (2); return it."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end; all that are left, where no size is given."""
        left = max(self._size - self._position, 0)
        count = left if size is None or size < 0 else min(size, left)
        data = self._persist(lambda: self._part(count)) if count else b""
        self._position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill a buffer; return the number of bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close it."""
        self._drop()
        super().close()

    def _part(self, count: int) -> bytes:
        try:
            if self._stream is None:
                self._stream = self._reopen()
                self._size = self._stream.seek(0, io.SEEK_END)
            self._stream.seek(self._position)
            data = bytes(self._stream.read(count))
        except OSError:
            self._drop()
            raise
        if len(data) < count:
            self._drop()
            raise OSError(errno.EIO, f"{len(data)} bytes came, of {count}")
        return data

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
