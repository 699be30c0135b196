"""Storage behind a URI, through pyarrow: object stores, and what else pyarrow.fs knows."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import BinaryIO, cast

import pyarrow as pa
from pyarrow import fs

from raygen.errors import StoreError
from raygen.storage.backends import Backend, Entry, Kind, LocalBackend, temporary

_PUT_IS_ATOMIC = {"s3", "gcs", "abfs"}
"""Object stores show an object only once its upload is complete; elsewhere a rename does it."""

_KINDS: dict[fs.FileType, Kind] = {fs.FileType.File: "file", fs.FileType.Directory: "folder"}


def backend_of(uri: str, title: str) -> tuple[Backend, str]:
    """Return the storage that a URI names, and the path there.

    Args:
        uri: as pyarrow.fs takes it.
        title: the URI for messages, without what is secret.

    Raises:
        StoreError: if the scheme is unknown or the storage cannot be reached.
    """
    try:
        filesystem, root = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(
            f"no storage behind this address ({without_secrets(str(error), uri, title)})",
            where=title,
            right="give a path or a URI that pyarrow.fs knows (file://, s3://, gs://, abfs://, hdfs://)",
        ) from None
    if isinstance(filesystem, fs.LocalFileSystem):
        return LocalBackend(), root
    parts = root.strip("/").split("/")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        what = "names no bucket" if parts == [""] else "has an empty part, a dot or NUL among its folders"
        raise StoreError(what, where=title, right="give an address such as s3://bucket/folder")
    return ArrowBackend(filesystem), root


def without_secrets(message: str, uri: str, title: str) -> str:
    """Return what a library says of a URI, without the user, the password and the options in it."""
    address, _, options = uri.partition("?")
    user = address.partition("://")[2].partition("/")[0].rpartition("@")[0]
    message = message.replace(uri, title)
    values = [option.partition("=")[2] for option in options.split("&")]
    for secret in sorted({user, *user.split(":"), options, *values} - {""}, key=len, reverse=True):
        message = message.replace(secret, "...")
    return message


@dataclass(frozen=True)
class ArrowBackend:
    """A file system of pyarrow; see ``Backend``."""

    filesystem: fs.FileSystem

    @property
    def is_local(self) -> bool:
        """It is not: paths of this machine have a backend of their own."""
        return False

    def exists(self, path: str) -> bool:
        """Ask the storage."""
        return bool(self.filesystem.get_file_info(path).type != fs.FileType.NotFound)

    def entries(self, path: str, *, recursive: bool) -> list[Entry]:
        """List a folder."""
        found = self.filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=recursive))
        return [Entry(info.path[len(path) :].lstrip("/"), _KINDS.get(info.type, "other")) for info in found]

    def sizes(self, path: str) -> dict[str, int]:
        """List a folder, which says the sizes too."""
        found = self.filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
        return {info.path[len(path) :].lstrip("/"): info.size for info in found if info.type == fs.FileType.File}

    def open(self, path: str) -> BinaryIO:
        """Open a file."""
        return cast(BinaryIO, self.filesystem.open_input_file(path))

    def write(self, path: str, data: bytes, *, lasting: bool) -> None:
        """Put an object; where a reader could see a part of it, under a temporary name, then rename."""
        if self.filesystem.type_name in _PUT_IS_ATOMIC:
            self._put(path, data)
            return
        unfinished = temporary(path)
        try:
            self.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
            self._put(unfinished, data)
            self.filesystem.move(unfinished, path)
        except BaseException:
            with contextlib.suppress(OSError):
                self.filesystem.delete_file(unfinished)
            raise

    def create(self, path: str, data: bytes) -> bool:
        """Look, then write: pyarrow has no way to say that an object must not be there."""
        if self.exists(path):
            return False
        self.write(path, data, lasting=False)
        return True

    def remove(self, path: str) -> None:
        """Remove a file."""
        self.filesystem.delete_file(path)

    def _put(self, path: str, data: bytes) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(data)
