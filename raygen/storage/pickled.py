"""What torch.save wrote, bounded before it is rebuilt: a few kilobytes may unpack to gigabytes, or take hours."""

from __future__ import annotations

import io
import pickletools
import zipfile
from typing import IO, Any, BinaryIO

_UNPACKED = 20
"""Bytes that a byte of a file may unpack to."""

_OPERATIONS = 2**21
"""Of the pickles in a file; a tensor takes some forty, and to rebuild a million takes about a second."""

_LEGACY_PICKLES = 5
"""That a file of torch before 1.6 begins with; its numbers follow."""

_ZIP = b"PK\x03\x04"
"""What torch takes for the beginning of a zip; anything else it takes for pickles."""

_GET = {"GET", "BINGET", "LONG_BINGET"}
_PUT = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_TUPLE = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}


def check_pickled(stream: BinaryIO) -> None:
    """Check what ``torch.load`` would take of memory and time; nothing of it is rebuilt.

    Args:
        stream: the file; it is left at its beginning.

    Raises:
        ValueError: if it is too much, or the file is damaged.
        zipfile.BadZipFile: if it begins as a zip and is none.
    """
    is_zip = stream.read(len(_ZIP)) == _ZIP
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if is_zip:
        _check_zip(stream, size)
    else:
        _check_operations(stream, _LEGACY_PICKLES)
    stream.seek(0)


def _check_zip(stream: BinaryIO, size: int) -> None:
    with zipfile.ZipFile(stream) as packed:
        parts = packed.infolist()
        unpacked = sum(part.file_size for part in parts)
        # torch stores its tensors as they are; what is packed may be a thousand times as large.
        if unpacked > _UNPACKED * size:
            raise ValueError(f"it would unpack to {unpacked:,} bytes")
        for part in parts:
            if part.filename.lower().endswith("data.pkl"):  # torch finds it in any case
                with packed.open(part) as pickled:
                    _check_operations(pickled, 1)


def _check_operations(stream: IO[bytes], count: int) -> None:
    """Walk through ``count`` pickles; raise ValueError where they have too many operations."""
    left = _OPERATIONS
    for _ in range(count):
        if not stream.read(1):
            return  # what is missing torch tells
        stream.seek(-1, io.SEEK_CUR)
        sizes = _Sizes()
        for code, argument, _ in pickletools.genops(stream):
            left -= sizes.after(code, argument)
            if left < 0:
                raise ValueError(f"it takes more than {_OPERATIONS:,} operations to rebuild")


class _Sizes:
    """How many values stand in each tuple on a pickle's stack, those that stand in several places counted in each.

    A tuple of two, both of them the same tuple of two, and so on for fifty levels, takes no memory, but its hash takes
    years. Of all else it is 1.
    """

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.memo: dict[int, int] = {}
        self.marks: list[int] = []

    def after(self, code: pickletools.OpcodeInfo, argument: Any) -> int:
        """Follow an operation; return what it costs."""
        if code.name in _PUT:
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1] if self.stack else 1
            return 1
        if code.name in _GET:
            self.stack.append(self.memo.get(int(argument), 1))
            return self.stack[-1]
        if code.name == "MARK":
            self.marks.append(len(self.stack))
            return 1
        taken = len(code.stack_before)
        if pickletools.markobject in code.stack_before:
            since = self.marks.pop() if self.marks else 0
            taken = len(self.stack) - since + code.stack_before.index(pickletools.markobject)
        parts = self.stack[-taken:] if taken else []
        if taken:
            del self.stack[-taken:]
        self.stack += [1 + sum(parts) if code.name in _TUPLE else 1] * len(code.stack_after)
        return 1
