"""A folder on local disk or behind a URI, with writes that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from raygen.errors import StoreError
from raygen.storage.backends import Backend, Entry, LocalBackend
from raygen.storage.retry import WAITS, is_transient, persist
from raygen.storage.stored_file import StoredFile

Result = TypeVar("Result")

_HARMLESS = {"allow_bucket_creation", "anonymous", "endpoint_override", "force_virtual_addressing", "region", "scheme"}
"""Options of a URI that say where the storage is and not who may use it."""

_LARGE = 2**30
"""Bytes of a file for which the system is asked whether there is room."""


@dataclass(frozen=True)
class Location:
    """A folder. Storage that fails for a moment is tried again.

    Attributes:
        text: what the user wrote; a URI may hold secrets, so messages take ``title``.
        backend: the storage that it is on.
        root: its path there.
        waits: seconds before each further try.
    """

    text: str
    backend: Backend
    root: str
    waits: tuple[float, ...] = WAITS

    @classmethod
    def of(cls, text: str) -> Location:
        """Take a local path or a URI such as ``s3://bucket/run``.

        A URI may have options of its storage, as pyarrow.fs takes them: ``s3://bucket/run?endpoint_override=host:9000``.

        Raises:
            StoreError: if the URI's scheme is unknown or its storage cannot be reached.
        """
        if "://" not in text:
            return cls(text, LocalBackend(), str(Path(text).expanduser().absolute()))
        from raygen.storage.arrow import backend_of  # noqa: PLC0415  (a local path needs no pyarrow)

        backend, root = backend_of(text, title_of(text))
        return cls(text, backend, root.rstrip("/"))

    @property
    def title(self) -> str:
        """What the user wrote, for messages: without user, password and options of a URI."""
        return title_of(self.text)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.root.rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        """Whether ``root`` is a path that this machine's own system knows: on a disk, or in what is mounted."""
        return self.backend.is_local

    def within(self, *parts: str) -> Location:
        """Return the folder ``parts`` below this one."""
        return Location(below(self.text, *parts), self.backend, self._path("/".join(parts)), self.waits)

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name.

        Raises:
            StoreError: if the storage does not answer.
        """
        return self._try(f"{name} cannot be looked for", lambda: self.backend.exists(self._path(name)))

    def names(self, folder: str = "", *, recursive: bool = False) -> list[str]:
        """Return the sorted names of the files below ``folder``, relative to it; none if it does not exist.

        Raises:
            StoreError: if the storage does not answer.
        """
        return [entry.name for entry in self.entries(folder, recursive=recursive) if entry.kind == "file"]

    def entries(self, folder: str = "", *, recursive: bool = False, hidden: bool = True) -> list[Entry]:
        """Return what ``folder`` holds, sorted by name; nothing if it does not exist.

        Args:
            folder: below this one.
            recursive: whether to list its folders, too.
            hidden: whether to list names that begin with a dot, and what lies below them.

        Raises:
            StoreError: if it is no folder, or cannot be listed.
        """
        path = self._path(folder)
        found = self._try("the folder cannot be listed", lambda: self.backend.entries(path, recursive=recursive))
        return sorted(entry for entry in found if hidden or not _is_hidden(entry.name))

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each file below ``folder``, by its name relative to it; nothing if it does not exist.

        Raises:
            StoreError: if it cannot be listed.
        """
        return self._try("the folder cannot be listed", lambda: self.backend.sizes(self._path(folder)))

    def read(self, name: str, *, most: int | None = None) -> bytes:
        """Return a file's bytes.

        Args:
            name: of the file.
            most: bytes that it may have; where not given, as many as there is memory for.

        Raises:
            StoreError: if it is not there, cannot be read or is too large.
        """

        def attempt() -> bytes:
            with self.backend.open(self._path(name)) as stream:
                if most is not None:
                    return bytes(stream.read(most + 1))
                size = stream.seek(0, io.SEEK_END)
                stream.seek(0)
                _check_room(size)
                return bytes(stream.read())

        right = "see that it is there and may be read"
        data = self._try(f"{name} cannot be read", attempt, right=right)
        if most is not None and len(data) > most:
            raise StoreError(f"{name} is larger than {most:,} bytes", where=self.title, right="give what raygen wrote")
        return data

    def open(self, name: str) -> StoredFile:
        """Open a file to be read in parts.

        Raises:
            StoreError: if it is not there or cannot be read.
        """
        path = self._path(name)
        return StoredFile(
            lambda: self.backend.open(path),
            lambda read: self._try(f"{name} cannot be read", read, right="see that it is there and may be read"),
        )

    def write(self, name: str, data: bytes, *, lasting: bool = True) -> None:
        """Write a file whole: a reader sees the old file or the new one, never a part.

        Args:
            name: of the file.
            data: its content.
            lasting: on a local disk, whether it is to outlast a loss of power from the moment that this returns.

        Raises:
            StoreError: if the storage refuses; nothing that was there is lost.
        """
        self._try(f"{name} cannot be written", lambda: self.backend.write(self._path(name), data, lasting=lasting),
                  right="give a folder that can be written, with room left")  # fmt: skip

    def create(self, name: str, data: bytes) -> bool:
        """Write a file whole unless there is one already; return whether it was written.

        On a local disk this is one step: of several that do it at once, one succeeds. Elsewhere it is a look and then
        a write, and what another writes in between is written over. Where it was tried again because the answer was
        lost, False may be said of an own file. In both cases the file, read again, says whose it is.

        Raises:
            StoreError: if the storage refuses.
        """
        return self._try(f"{name} cannot be written", lambda: self.backend.create(self._path(name), data),
                         right="give a folder that can be written, with room left")  # fmt: skip

    def remove(self, name: str) -> None:
        """Remove a file; do nothing where there is none.

        Raises:
            StoreError: if the storage refuses.
        """

        def attempt() -> None:
            # Somebody else may have removed it since it was looked for.
            with contextlib.suppress(FileNotFoundError):
                self.backend.remove(self._path(name))

        if self.exists(name):
            self._try(f"{name} cannot be removed", attempt, right="give a folder that can be written")

    def _try(self, what: str, attempt: Callable[[], Result], right: str = "give a folder that can be read") -> Result:
        try:
            return persist(attempt, self.waits)
        except MemoryError:
            raise StoreError(f"{what} (it does not fit into memory)", where=self.title, right=right) from None
        except (OSError, ValueError) as error:  # a ValueError is about the path, such as pyarrow's own
            if isinstance(error, OSError) and is_transient(error):
                right = "see that the storage answers, and run the same command again"
            raise StoreError(f"{what} ({error})", where=self.title, right=right) from None

    def _path(self, name: str) -> str:
        """Return the path of what is below this folder.

        Raises:
            StoreError: if the name leads out of it.
        """
        if "\0" in name or ".." in name.split("/"):
            raise StoreError(f"the name {name[:80]!a} leads to another folder", where=self.title,
                             right="give a folder whose files have plain names")  # fmt: skip
        return f"{self.root}/{name}" if name else self.root


def _check_room(size: int) -> None:
    """Do nothing; raise OSError where a file, which may consist of holes, does not fit into memory."""
    if size > _LARGE:
        from raygen.process import free_memory  # noqa: PLC0415  (mostly not needed)

        if size > free_memory():
            raise OSError(errno.EFBIG, f"its {size:,} bytes do not fit into memory")


def below(text: str, *parts: str) -> str:
    """Return the path or URI of ``parts`` below that of a folder; options of its storage stay at the end."""
    path, mark, options = text.partition("?") if "://" in text else (text, "", "")
    return "/".join((path.rstrip("/"), *parts)) + mark + options


def title_of(text: str) -> str:
    """Return a path or URI for messages: what may be secret, the user and the options of a URI, is left out."""
    if "://" not in text:
        return text.rstrip("/") or text
    scheme, _, rest = text.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")


def copyable(text: str) -> str:
    """Return a path or URI for a command that users copy: its title, with the options known to be harmless."""
    if "://" not in text:
        return text
    options = [option for option in text.partition("?")[2].split("&") if option.partition("=")[0] in _HARMLESS]
    return title_of(text) + ("?" + "&".join(options) if options else "")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
