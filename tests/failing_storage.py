"""Storage that really fails: a local folder behind pyarrow's interface that goes away at some calls."""

import errno
import io
from itertools import count
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from raygen.storage import ArrowBackend, Location


class Moody(fs.FileSystemHandler):
    """A local folder that fails at every so many calls, or at every one: opening, listing, and each read and write."""

    def __init__(self, number: int = errno.EIO, every: int = 7) -> None:
        self.local = fs.LocalFileSystem()
        self.number, self.every, self.calls, self.failed = number, every, count(1), 0

    def maybe(self) -> None:
        if next(self.calls) % self.every == 0:
            self.failed += 1
            raise OSError(self.number, "the storage went away")

    def get_type_name(self):
        return "moody"

    def normalize_path(self, path):
        return path

    def get_file_info(self, paths):
        self.maybe()
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector):
        self.maybe()
        return self.local.get_file_info(selector)

    def create_dir(self, path, recursive):
        self.maybe()
        self.local.create_dir(path, recursive=recursive)

    def delete_file(self, path):
        self.maybe()
        self.local.delete_file(path)

    def move(self, source, target):
        self.maybe()
        self.local.move(source, target)

    def open_output_stream(self, path, metadata):
        self.maybe()
        return pa.PythonFile(_Written(path, self), mode="w")

    def open_input_file(self, path):
        self.maybe()
        return pa.PythonFile(_Read(path, self), mode="r")

    copy_file = delete_dir = delete_dir_contents = delete_root_dir_contents = None
    open_append_stream = open_input_stream = None


class _Written:
    closed = False

    def __init__(self, path: str, moody: Moody) -> None:
        self.stream, self.moody = Path(path).open("wb"), moody  # noqa: SIM115

    def write(self, data):
        self.stream.write(bytes(data)[:1])
        self.stream.flush()
        self.moody.maybe()
        return 1 + self.stream.write(bytes(data)[1:])

    def flush(self):
        self.stream.flush()

    def close(self):
        self.closed = True
        self.stream.close()


class _Read(io.FileIO):
    def __init__(self, path: str, moody: Moody) -> None:
        super().__init__(path)
        self.moody = moody

    def read(self, size=-1):
        self.moody.maybe()
        return super().read(size)


def failing_location(moody: Moody, root: Path | str, waits: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Location:
    return Location("moody://pictures", ArrowBackend(fs.PyFileSystem(moody)), str(root), waits)
