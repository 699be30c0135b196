"""Storage that fails for a moment is waited for; storage that refuses says so at once; nothing is lost or torn."""

import errno
import subprocess
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs

from raygen.errors import StoreError
from raygen.storage import ArrowBackend, LocalBackend, Location, below
from raygen.storage.retry import is_transient, persist


class Moody(fs.FileSystemHandler):
    """A local folder that fails now and then, or that stays away for good."""

    def __init__(self, number: int = errno.EIO, every: int = 7) -> None:
        self.local = fs.LocalFileSystem()
        self.number, self.every, self.calls, self.failed = number, every, count(1), 0

    def _maybe(self) -> None:
        if next(self.calls) % self.every == 0:
            self.failed += 1
            raise OSError(self.number, "the storage went away")

    def get_type_name(self):
        return "moody"

    def normalize_path(self, path):
        return path

    def get_file_info(self, paths):
        self._maybe()
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector):
        self._maybe()
        return self.local.get_file_info(selector)

    def create_dir(self, path, recursive):
        self._maybe()
        self.local.create_dir(path, recursive=recursive)

    def delete_file(self, path):
        self._maybe()
        self.local.delete_file(path)

    def move(self, source, target):
        self._maybe()
        self.local.move(source, target)

    def open_output_stream(self, path, metadata):
        self._maybe()
        return pa.PythonFile(_File(path, self), mode="w")

    def open_input_file(self, path):
        self._maybe()
        return self.local.open_input_file(path)

    copy_file = delete_dir = delete_dir_contents = delete_root_dir_contents = None
    open_append_stream = open_input_stream = None


class _File:
    closed = False

    def __init__(self, path: str, moody: Moody) -> None:
        self.stream, self.moody = Path(path).open("wb"), moody  # noqa: SIM115

    def write(self, data):
        self.stream.write(bytes(data)[:1])
        self.stream.flush()
        self.moody._maybe()
        return 1 + self.stream.write(bytes(data)[1:])

    def flush(self):
        self.stream.flush()

    def close(self):
        self.closed = True
        self.stream.close()


def place_of(moody: Moody, root: Path, waits: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Location:
    return Location("moody://run", ArrowBackend(fs.PyFileSystem(moody)), str(root), waits)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_storage_that_fails_now_and_then_is_written_read_and_emptied(tmp_path):
    moody = Moody(every=7)
    place = place_of(moody, tmp_path)
    for number in range(20):
        place.write(f"a/{number}.bin", bytes([number]) * 100)
    assert moody.failed > 5
    assert place.names("a") == sorted(f"{number}.bin" for number in range(20))
    for number in range(20):
        assert place.exists(f"a/{number}.bin")
        assert place.read(f"a/{number}.bin") == bytes([number]) * 100
    # A write that failed on its way may have left a scrap where removing it failed too: nothing else.
    assert {name for name in files(tmp_path) if not name.endswith(".tmp")} == {f"a/{n}.bin" for n in range(20)}
    for number in range(20):
        place.remove(f"a/{number}.bin")
    assert not [name for name in files(tmp_path) if not name.endswith(".tmp")]


def test_storage_that_stays_away_is_told_after_some_tries(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    for what, act in {
        "a cannot be written": lambda place: place.write("a", b"new"),
        "a cannot be read": lambda place: place.read("a"),
        "a cannot be looked for": lambda place: place.exists("a"),
        "cannot be listed": lambda place: place.names(),
        "the folder cannot be listed": lambda place: place.entries(),
    }.items():
        moody = Moody(every=1)
        with pytest.raises(StoreError, match=rf"moody://run: .*{what}"):
            act(place_of(moody, tmp_path))
        assert moody.failed >= 4
    assert files(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_storage_that_refuses_is_not_asked_again(tmp_path, number):
    moody = Moody(number, every=1)
    with pytest.raises(StoreError, match="cannot be read"):
        place_of(moody, tmp_path, (1000.0,)).read("a")
    assert moody.failed == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.ESTALE, errno.EAGAIN])
def test_what_the_network_does_is_transient(number):
    assert is_transient(OSError(number, "gone"))


@pytest.mark.parametrize(
    ("said", "transient"),
    [
        ("When writing key: AWS Error SLOW_DOWN during PutObject operation: reduce your request rate", True),
        ("When reading: AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7", True),
        ("When reading: AWS Error ACCESS_DENIED during GetObject operation: no", False),
        ("When creating key: AWS Error NO_SUCH_BUCKET during PutObject operation: no", False),
    ],
)
def test_what_an_object_store_says_is_understood(said, transient):
    assert is_transient(OSError(said)) == transient


def test_it_is_tried_once_more_than_it_waits():
    tries = []

    def fail():
        tries.append(1)
        raise OSError(errno.EIO, "gone")

    with pytest.raises(OSError, match="gone"):
        persist(fail, (0.0, 0.0))
    assert len(tries) == 3


def test_a_file_that_is_not_there_is_not_waited_for(tmp_path):
    place = Location(str(tmp_path), LocalBackend(), str(tmp_path), (1000.0,))
    with pytest.raises(StoreError, match="cannot be read"):
        place.read("absent")


@pytest.mark.parametrize(
    ("text", "parts", "joined"),
    [
        ("run", ("a", "b"), "run/a/b"),
        ("/runs/run/", ("a",), "/runs/run/a"),
        ("what?", ("a",), "what?/a"),
        ("s3://bucket/run", ("a",), "s3://bucket/run/a"),
        ("s3://bucket/run/?x=1&y=http://h", ("a", "b"), "s3://bucket/run/a/b?x=1&y=http://h"),
        ("s3://bucket?x=1", ("a",), "s3://bucket/a?x=1"),
    ],
)
def test_what_lies_below_keeps_the_options_of_the_storage_at_the_end(text, parts, joined):
    assert below(text, *parts) == joined


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_told_at_once_and_goes_on_once_there_is_room(small_disk):
    place = Location(str(small_disk), LocalBackend(), str(small_disk), (1000.0,))
    place.write("kept", bytes(40_000))
    with pytest.raises(StoreError, match=r"more cannot be written .*No space left.*; give a folder .* with room left"):
        place.write("more", bytes(40_000))
    assert files(small_disk) == {"kept": bytes(40_000)}
    place.write("kept", bytes(4_000))
    place.write("more", bytes(40_000))
    assert place.names() == ["kept", "more"]
