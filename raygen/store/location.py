"""A folder on local disk or behind a URI, with writes that are whole or not there."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from raygen.errors import StoreError

_PUT_IS_ATOMIC = {"s3", "gcs", "abfs"}
"""Object stores show an object only once its upload is complete; elsewhere a rename does it."""


@dataclass(frozen=True)
class Location:
    """A folder. ``text`` is what the user wrote, for messages."""

    text: str
    filesystem: fs.FileSystem
    root: str

    @classmethod
    def of(cls, text: str) -> Location:
        """Take a local path or a URI such as ``s3://bucket/run``.

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

    def within(self, *parts: str) -> Location:
        """Return the folder ``parts`` below this one."""
        return Location("/".join((self.text.rstrip("/"), *parts)), self.filesystem, self._path("/".join(parts)))

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""
        return bool(self.filesystem.get_file_info(self._path(name)).type != fs.FileType.NotFound)

    def names(self, folder: str = "", *, recursive: bool = False) -> list[str]:
        """Return the sorted names of the files below ``folder``, relative to it; none if it does not exist."""
        base = self._path(folder)
        selector = fs.FileSelector(base, allow_not_found=True, recursive=recursive)
        found = (info for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File)
        return sorted(info.path[len(base) :].lstrip("/") for info in found)

    def entries(self) -> list[str]:
        """Return the sorted names of the files and folders directly in this folder.

        Raises:
            StoreError: if it is no folder, or cannot be listed.
        """
        selector = fs.FileSelector(self.root, allow_not_found=True)
        try:
            return sorted(info.base_name for info in self.filesystem.get_file_info(selector))
        except OSError as error:
            raise StoreError(f"the folder cannot be listed ({error})", where=self.text,
                             right="give a folder") from None  # fmt: skip

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            StoreError: if it is not there or cannot be read.
        """
        try:
            with self.filesystem.open_input_file(self._path(name)) as stream:
                return bytes(stream.read())
        except OSError as error:
            raise StoreError(f"{name} cannot be read ({error})", where=self.text,
                             right="give the folder of a raygen run") from None  # fmt: skip

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole: a reader sees the old file or the new one, never a part.

        Raises:
            StoreError: if the storage refuses; nothing that was there is lost.
        """
        target = self._path(name)
        atomic = self.filesystem.type_name in _PUT_IS_ATOMIC
        path = target if atomic else f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            self.filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(data)
            if not atomic:
                self.filesystem.move(path, target)
        except OSError as error:
            if path != target:
                # A scrap takes room, and would make the folder look like someone else's.
                with contextlib.suppress(OSError):
                    self.filesystem.delete_file(path)
            raise StoreError(f"{name} cannot be written ({error})", where=self.text,
                             right="give a place that can be written, with room left") from None  # fmt: skip

    def remove(self, name: str) -> None:
        """Remove a file; do nothing where there is none."""
        if self.exists(name):
            self.filesystem.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root
