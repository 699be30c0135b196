"""A folder on local disk or behind a URI, with writes that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from raygen.errors import StoreError
from raygen.storage.retry import WAITS, persist

Result = TypeVar("Result")

_PUT_IS_ATOMIC = {"s3", "gcs", "abfs"}
"""Object stores show an object only once its upload is complete; elsewhere a rename does it."""


@dataclass(frozen=True)
class Location:
    """A folder. Storage that fails for a moment is tried again.

    Attributes:
        text: what the user wrote, for messages.
        filesystem: that it is on.
        root: its path there.
        waits: seconds before each further try.
    """

    text: str
    filesystem: fs.FileSystem
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
            return cls(text, fs.LocalFileSystem(), str(Path(text).expanduser().absolute()))
        try:
            filesystem, root = fs.FileSystem.from_uri(text)
        except (pa.ArrowInvalid, pa.ArrowException, OSError, ValueError) as error:
            raise StoreError(
                f"no storage behind this address ({error})",
                where=text,
                right="give a path or a URI that pyarrow.fs knows (file://, s3://, gs://, abfs://, hdfs://)",
            ) from None
        return cls(text, filesystem, root.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether it is a path that this machine's own system knows: a disk, or what is mounted."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def within(self, *parts: str) -> Location:
        """Return the folder ``parts`` below this one."""
        return Location(below(self.text, *parts), self.filesystem, self._path("/".join(parts)), self.waits)

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name.

        Raises:
            StoreError: if the storage does not answer.
        """
        info = self._try(f"{name} cannot be looked for", lambda: self.filesystem.get_file_info(self._path(name)))
        return bool(info.type != fs.FileType.NotFound)

    def names(self, folder: str = "", *, recursive: bool = False) -> list[str]:
        """Return the sorted names of the files below ``folder``, relative to it; none if it does not exist.

        Raises:
            StoreError: if the storage does not answer.
        """
        base = self._path(folder)
        selector = fs.FileSelector(base, allow_not_found=True, recursive=recursive)
        found = self._try("the folder cannot be listed", lambda: self.filesystem.get_file_info(selector))
        return sorted(info.path[len(base) :].lstrip("/") for info in found if info.type == fs.FileType.File)

    def entries(self) -> list[str]:
        """Return the sorted names of the files and folders directly in this folder.

        Raises:
            StoreError: if it is no folder, or cannot be listed.
        """
        selector = fs.FileSelector(self.root, allow_not_found=True)
        found = self._try("the folder cannot be listed", lambda: self.filesystem.get_file_info(selector))
        return sorted(info.base_name for info in found)

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            StoreError: if it is not there or cannot be read.
        """

        def attempt() -> bytes:
            with self.filesystem.open_input_file(self._path(name)) as stream:
                return bytes(stream.read())

        return self._try(f"{name} cannot be read", attempt, right="give the folder of a raygen run")

    def write(self, name: str, data: bytes, *, lasting: bool = True) -> None:
        """Write a file whole: a reader sees the old file or the new one, never a part.

        Args:
            name: of the file.
            data: its content.
            lasting: on a local disk, whether it is to outlast a loss of power from the moment that this returns.

        Raises:
            StoreError: if the storage refuses; nothing that was there is lost.
        """
        self._try(f"{name} cannot be written", lambda: self._write(self._path(name), data, lasting=lasting),
                  right="give a folder that can be written, with room left")  # fmt: skip

    def remove(self, name: str) -> None:
        """Remove a file; do nothing where there is none.

        Raises:
            StoreError: if the storage refuses.
        """

        def attempt() -> None:
            # Somebody else may have removed it since it was looked for.
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.delete_file(self._path(name))

        if self.exists(name):
            self._try(f"{name} cannot be removed", attempt, right="give a folder that can be written")

    def _write(self, target: str, data: bytes, *, lasting: bool) -> None:
        if self.filesystem.type_name in _PUT_IS_ATOMIC:
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(data)
            return
        path = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            self.filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(data)
            if lasting and self.is_local:
                # A rename may reach the disk before what was written: a loss of power would leave an empty file.
                _flush(path)
            self.filesystem.move(path, target)
        except BaseException:
            # A scrap takes room, and would make the folder look like someone else's.
            with contextlib.suppress(OSError):
                self.filesystem.delete_file(path)
            raise

    def _try(self, what: str, attempt: Callable[[], Result], right: str = "give a folder that can be read") -> Result:
        try:
            return persist(attempt, self.waits)
        except OSError as error:
            raise StoreError(f"{what} ({error})", where=self.text, right=right) from None

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root


def below(text: str, *parts: str) -> str:
    """Return the path or URI of ``parts`` below that of a folder; options of its storage stay at the end."""
    path, mark, options = text.partition("?") if "://" in text else (text, "", "")
    return "/".join((path.rstrip("/"), *parts)) + mark + options


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
