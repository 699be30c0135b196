"""What a location asks of the storage that it lies on, and the disk that answers without any library."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol

from raygen.storage.retry import is_transient

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

Kind = Literal["file", "folder", "other"]


class Entry(NamedTuple):
    """What a folder holds under one name.

    Attributes:
        name: relative to the folder that was listed.
        kind: "other" is a socket and the like; a link is what it leads to, and one that leads nowhere is left out.
    """

    name: str
    kind: Kind

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, or a link to one."""
        return self.kind == "folder"


class Backend(Protocol):
    """Storage, asked once: every method raises OSError where it fails, and whoever calls it tries again."""

    @property
    def is_local(self) -> bool:
        """Whether its paths are those of this machine's own system."""

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""

    def entries(self, path: str, *, recursive: bool) -> list[Entry]:
        """Return what a folder holds, in any order; nothing where there is none."""

    def sizes(self, path: str) -> dict[str, int]:
        """Return the bytes of each file below a folder, by its name relative to it; nothing where there is none."""

    def open(self, path: str) -> BinaryIO:
        """Open a file to be read from any position."""

    def write(self, path: str, data: bytes, *, lasting: bool) -> None:
        """Write a file whole, and its folder where there is none; see ``Location.write``."""

    def create(self, path: str, data: bytes) -> bool:
        """Write a file whole unless there is one; return whether it was written; see ``Location.create``."""

    def remove(self, path: str) -> None:
        """Remove a file; FileNotFoundError where there is none."""


def temporary(path: str) -> str:
    """Return the name under which a file is written before it gets its own."""
    return f"{path}.{uuid.uuid4().hex[:8]}.tmp"


@dataclass(frozen=True)
class LocalBackend:
    """The files of this machine's own system: a disk, or what is mounted; see ``Backend``."""

    @property
    def is_local(self) -> bool:
        """Yes."""
        return True

    def exists(self, path: str) -> bool:
        """Ask the system."""
        try:
            Path(path).stat()
        except OSError as error:
            if error.errno in _ABSENT:
                return False
            raise
        return True

    def entries(self, path: str, *, recursive: bool) -> list[Entry]:
        """List a folder; links are followed."""
        found: list[Entry] = []
        if not self.exists(path):
            return found
        # Somebody else may remove it while it is listed.
        with contextlib.suppress(FileNotFoundError):
            found.extend(_entries(path, "", recursive=recursive, seen={os.path.realpath(path)}))
        return found

    def sizes(self, path: str) -> dict[str, int]:
        """Ask the system for each file."""
        found = self.entries(path, recursive=True)
        return {name: (Path(path) / name).stat().st_size for name, kind in found if kind == "file"}

    def open(self, path: str) -> BinaryIO:
        """Open a file, and nothing else: a pipe would wait for ever, a device never end."""
        stream = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            stream.close()
            raise OSError(errno.EINVAL, "it is no file", path)
        return stream

    def write(self, path: str, data: bytes, *, lasting: bool) -> None:
        """Write under a temporary name, then rename."""
        with _unfinished(path, data, lasting=lasting) as unfinished:
            unfinished.replace(path)

    def create(self, path: str, data: bytes) -> bool:
        """Write under a temporary name, then link: of several that do so at once, the system lets one succeed."""
        with _unfinished(path, data, lasting=False) as unfinished:
            try:
                os.link(unfinished, path)
            except FileExistsError:
                return False
            except OSError as error:
                if is_transient(error):
                    raise
                # Some file systems, as of memory cards, give a file no second name: there it is a look, then a rename.
                if self.exists(path):
                    return False
                unfinished.replace(path)
            return True

    def remove(self, path: str) -> None:
        """Remove a file."""
        Path(path).unlink()


@contextmanager
def _unfinished(path: str, data: bytes, *, lasting: bool) -> Iterator[Path]:
    """Write a file under a temporary name, which is gone after the block."""
    unfinished = Path(temporary(path))
    try:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as stream:
            stream.write(data)
            stream.flush()
            if lasting:
                # A rename may reach the disk before what was written: a loss of power would leave an empty file.
                os.fsync(stream.fileno())
        yield unfinished
    finally:
        # A scrap takes room, and would make the folder look like someone else's.
        with contextlib.suppress(OSError):
            unfinished.unlink()


def _entries(folder: str, prefix: str, *, recursive: bool, seen: set[str]) -> Iterator[Entry]:
    """List a folder; one that a link leads back into, or that links lead to twice, is listed once."""
    with os.scandir(folder) as found:
        # What lies here goes before what links lead to.
        for entry in sorted(found, key=os.DirEntry.is_symlink):
            name = prefix + entry.name
            if entry.is_file():
                yield Entry(name, "file")
            elif entry.is_dir():
                real = os.path.realpath(entry.path)
                if recursive and entry.is_symlink() and _is_listed(real, seen):
                    continue
                yield Entry(name, "folder")
                if recursive:
                    seen.add(real)
                    # Somebody else may have removed it since.
                    with contextlib.suppress(FileNotFoundError):
                        yield from _entries(entry.path, f"{name}/", recursive=True, seen=seen)
            elif not _leads_nowhere(entry):
                yield Entry(name, "other")


def _is_listed(real: str, seen: set[str]) -> bool:
    """Say whether a folder is one of those that are listed, or lies in or above one."""
    return any(os.path.commonpath([real, other]) in (real, other) for other in seen)


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except OSError as error:
        return error.errno in _ABSENT
    return False
