"""A location: local paths and URIs, and writes that are whole or not there."""

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from raygen.errors import StoreError
from raygen.storage import ArrowBackend, LocalBackend, Location, copyable, title_of

_WRITE_WITH_LITTLE_ROOM = """
import resource, signal, sys
from raygen.errors import StoreError
from raygen.storage import Location
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    Location.of(sys.argv[1]).write("samples/a.bin", bytes(100_000))
except StoreError as error:
    sys.exit(str(error))
"""


class Breaking(fs.FileSystemHandler):
    """A local folder whose storage fails at one operation."""

    def __init__(self, fails_at: str) -> None:
        self.local = fs.LocalFileSystem()
        self.fails_at = fails_at

    def _maybe(self, operation: str) -> None:
        if operation == self.fails_at:
            raise OSError(5, "the storage went away")

    def get_type_name(self):
        return "breaking"

    def normalize_path(self, path):
        return path

    def get_file_info(self, paths):
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector):
        return self.local.get_file_info(selector)

    def create_dir(self, path, recursive):
        self._maybe("create_dir")
        self.local.create_dir(path, recursive=recursive)

    def delete_file(self, path):
        self.local.delete_file(path)

    def move(self, source, target):
        self._maybe("move")
        self.local.move(source, target)

    def open_output_stream(self, path, metadata):
        self._maybe("open")
        return pa.PythonFile(_Half(path, self), mode="w")

    def open_input_file(self, path):
        return self.local.open_input_file(path)

    copy_file = delete_dir = delete_dir_contents = delete_root_dir_contents = None
    open_append_stream = open_input_stream = None


class _Half:
    """A file that takes half of what it is given, then fails."""

    closed = False

    def __init__(self, path: str, handler: Breaking) -> None:
        self.stream, self.handler = Path(path).open("wb"), handler  # noqa: SIM115

    def write(self, data):
        data = bytes(data)
        if self.handler.fails_at == "write":
            self.stream.write(data[: len(data) // 2])
            self.stream.flush()
            raise OSError(28, "no space left on device")
        return self.stream.write(data)

    def flush(self):
        self.stream.flush()

    def close(self):
        self.closed = True
        self.stream.close()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(deadline=None)  # the disk sets the pace
@given(data=st.binary(max_size=2000), parts=st.lists(st.from_regex(r"[A-Za-z0-9_.-]{1,8}[a-z]", fullmatch=True),
                                                    min_size=1, max_size=3))  # fmt: skip
def test_what_is_written_is_read_back(tmp_path_factory, data, parts):
    location = Location.of(str(tmp_path_factory.mktemp("location")))
    location.write("/".join(parts), data)
    assert location.read("/".join(parts)) == data
    assert location.names(recursive=True) == ["/".join(parts)]


def test_a_uri_and_a_path_are_the_same_folder(tmp_path):
    Location.of(str(tmp_path)).write("a/b.txt", b"one")
    by_uri = Location.of(tmp_path.as_uri())
    assert by_uri.read("a/b.txt") == b"one"
    assert by_uri.within("a").names() == ["b.txt"]
    assert by_uri.within("a").text == tmp_path.as_uri() + "/a"


def test_a_file_is_replaced_whole(tmp_path):
    location = Location.of(str(tmp_path))
    location.write("a", b"a long old content")
    location.write("a", b"new")
    assert files(tmp_path) == {"a": b"new"}


def test_running_out_of_room_keeps_the_old_file_and_leaves_no_scrap(tmp_path):
    Location.of(str(tmp_path)).write("samples/a.bin", b"old")
    ended = subprocess.run(
        [sys.executable, "-c", _WRITE_WITH_LITTLE_ROOM, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "samples/a.bin cannot be written" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert files(tmp_path) == {"samples/a.bin": b"old"}


@pytest.mark.parametrize("fails_at", ["create_dir", "open", "write", "move"])
def test_a_storage_that_fails_midway_keeps_the_old_file(tmp_path, fails_at):
    (tmp_path / "a.bin").write_bytes(b"old")
    location = Location(
        "breaking://run", ArrowBackend(fs.PyFileSystem(Breaking(fails_at))), str(tmp_path), waits=(0.0,)
    )
    with pytest.raises(StoreError, match=r"breaking://run: a.bin cannot be written"):
        location.write("a.bin", bytes(range(200)))
    assert files(tmp_path) == {"a.bin": b"old"}


def test_the_handler_of_these_tests_writes_where_nothing_fails(tmp_path):
    location = Location("breaking://run", ArrowBackend(fs.PyFileSystem(Breaking("never"))), str(tmp_path))
    location.write("a.bin", b"new")
    assert files(tmp_path) == {"a.bin": b"new"}


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StoreError, match="cannot be written"):
        Location.of(str(tmp_path / "file")).write("a", b"")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"plan\.parquet cannot be read"):
        Location.of(str(tmp_path)).read("plan.parquet")


def test_an_unknown_scheme_is_refused_with_what_would_be_right():
    with pytest.raises(StoreError, match=r"ftp://host/run: no storage .*s3://"):
        Location.of("ftp://host/run")


def test_a_folder_that_is_not_there_is_empty(tmp_path):
    location = Location.of(str(tmp_path / "absent"))
    assert location.names(recursive=True) == location.entries() == []
    assert not location.exists("run.json")
    location.remove("run.json")


_WORKS_WITHOUT_PYARROW = """
import sys
from raygen.storage import Location
location = Location.of(sys.argv[1])
location.write("a/b", b"whole")
with location.open("a/b") as stream:
    assert (stream.seek(2), stream.read()) == (2, b"ole")
assert [location.read("a/b"), location.names("a"), location.exists("a"), location.entries()[0].is_folder] == [
    b"whole", ["b"], True, True]
location.remove("a/b")
sys.exit(" ".join(name for name in sys.modules if name.split(".")[0] in ("pyarrow", "torch", "ray", "numpy")))
"""


def test_a_local_folder_is_read_and_written_without_pyarrow(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", _WORKS_WITHOUT_PYARROW, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (ended.stderr, ended.returncode) == ("\n", 1), "sys.exit of an empty text says nothing, and is 1"


def fill(folder: Path) -> None:
    (folder / "a" / ".hidden").mkdir(parents=True)
    (folder / "a" / "b").write_bytes(b"x")
    (folder / "a" / ".hidden" / "c").write_bytes(b"x")
    (folder / "z").write_bytes(b"x")
    (folder / "broken").symlink_to(folder / "nothing")


def test_each_folder_is_listed_once_however_many_links_lead_to_it(tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    (root / "cat" / "more").mkdir(parents=True)
    (store / "dogs").mkdir(parents=True)
    for file in (root / "cat" / "1", root / "cat" / "more" / "2", store / "dogs" / "3"):
        file.write_bytes(b"x")
    for link, target in (("cat/up", root), ("cat/again", root / "cat"), ("aside", root / "cat" / "more"),
                         ("dog", store / "dogs"), ("dog-too", store / "dogs"), ("all", tmp_path)):  # fmt: skip
        (root / link).symlink_to(target)
    (store / "dogs" / "back").symlink_to(root)
    (root / "file-link").symlink_to(root / "cat" / "1")
    found = Location.of(str(root)).names(recursive=True)
    dogs = [name for name in found if name.endswith("/3")]
    assert sorted(set(found) - set(dogs)) == ["cat/1", "cat/more/2", "file-link"]
    assert dogs in (["dog/3"], ["dog-too/3"])
    listed = {entry.name for entry in Location.of(str(root)).entries()}
    assert listed == {"cat", "aside", "dog", "dog-too", "all", "file-link"}


@pytest.mark.parametrize("name", ["pipe", "folder", "/dev/zero"])
def test_only_files_are_read(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    path = Path("/dev") if name.startswith("/dev") else tmp_path
    with pytest.raises(StoreError, match=r"cannot be read \(.*(it is no file|Is a directory)"):
        Location.of(str(path)).read(name.removeprefix("/dev/"))


def test_a_local_folder_lists_what_pyarrow_lists(tmp_path):
    fill(tmp_path)
    ours, theirs = (
        Location("x", backend, str(tmp_path)) for backend in (LocalBackend(), ArrowBackend(fs.LocalFileSystem()))
    )
    for recursive in (False, True):
        assert ours.names(recursive=recursive) == theirs.names(recursive=recursive)
        assert ours.entries(recursive=recursive) == theirs.entries(recursive=recursive)
    assert ours.sizes("") == theirs.sizes("") == {"a/b": 1, "a/.hidden/c": 1, "z": 1}
    assert ours.sizes("nothing") == theirs.sizes("nothing") == {}
    for name in ("", "a", "z", "broken", "z/below", "nothing"):
        assert ours.exists(name) == theirs.exists(name)
    for folder in ("nothing", "z/below"):
        assert ours.entries(folder) == theirs.entries(folder) == []
    for location in (ours, theirs):
        with pytest.raises(StoreError, match=r"the folder cannot be listed .*; give a folder that can be read"):
            location.entries("z")
    assert [entry.name for entry in ours.entries(recursive=True, hidden=False)] == [
        "a", "a/b", "z"]  # fmt: skip


@pytest.mark.parametrize("backend", [LocalBackend(), ArrowBackend(fs.LocalFileSystem())])
def test_a_file_is_read_in_parts_from_any_position(tmp_path, backend):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    with Location("x", backend, str(tmp_path)).open("a") as stream:
        assert stream.read(3) == b"\0\1\2"
        assert stream.read(1) == b"\3"
        assert (stream.seek(-2, 2), stream.read(9), stream.read(9)) == (98, b"cd"[:0] + bytes([98, 99]), b"")
        assert (stream.seek(5), stream.seek(5, 1), stream.tell()) == (5, 10, 10)
        buffer = bytearray(4)
        assert (stream.readinto(buffer), bytes(buffer)) == (4, bytes(range(10, 14)))
        assert stream.read() == bytes(range(14, 100))


@pytest.mark.parametrize("text", ["{}", "file://{}"])
def test_a_location_crosses_a_process_boundary(tmp_path, text):
    location = Location.of(text.format(tmp_path))
    again = pickle.loads(pickle.dumps(location))
    assert again == location
    again.write("a", b"x")
    assert location.read("a") == b"x"


@pytest.mark.parametrize(("text", "shown"), [
    ("run/", "run"),
    ("/", "/"),
    ("a?b=c", "a?b=c"),
    ("s3://KEY:SECRET@bucket/run", "s3://bucket/run"),
    ("s3://bucket/run/?secret_key=SECRET&region=x", "s3://bucket/run"),
    ("s3://KEY:SEC@RET@bucket?access_key=KEY", "s3://bucket"),
])  # fmt: skip
def test_messages_show_no_secret_of_an_address(text, shown):
    assert title_of(text) == shown


@pytest.mark.parametrize(
    ("text", "copied"),
    [
        ("run/", "run/"),
        ("s3://bucket/run", "s3://bucket/run"),
        (
            "s3://bucket/run?endpoint_override=host:9&scheme=http",
            "s3://bucket/run?endpoint_override=host:9&scheme=http",
        ),
        ("s3://KEY:SECRET@bucket/run?region=x&secret_key=SECRET&scheme=http", "s3://bucket/run?region=x&scheme=http"),
    ],
)
def test_a_command_to_copy_keeps_the_options_that_are_no_secrets(text, copied):
    assert copyable(text) == copied


@pytest.mark.parametrize("text", [
    "ftp://KEY:SECRET@host/run",
    "s3://KEY:SECRET@bucket/run?region=x&nonsense=SECRET",
    "s3://KEY:SECRET@bu cket/run",
    "s3://bucket/run?endpoint_override=127.0.0.1:9&secret_key=SECRET",
])  # fmt: skip
def test_an_address_that_is_refused_shows_no_secret(text):
    with pytest.raises(StoreError) as caught:
        Location.of(text)
    assert "SECRET" not in str(caught.value)
    assert "KEY:" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("mock://", r"names no bucket; give an address such as s3://bucket/folder"),
        ("mock:///", r"names no bucket; give an address such as s3://bucket/folder"),
        (
            "s3://bucket//x?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1",
            r"has an empty part, a dot or NUL among its folders; give",
        ),
        ("mock://bucket/./x", r"has an empty part, a dot or NUL among its folders; give"),
        ("mock://bucket/x/../y", r"has an empty part, a dot or NUL among its folders; give"),
    ],
)
def test_addresses_that_object_stores_have_no_folder_for_are_refused_in_one_line(address, says):
    with pytest.raises(StoreError, match=says):
        Location.of(address)


def test_a_name_that_the_system_cannot_have_is_one_line(tmp_path):
    with pytest.raises(StoreError, match=r"cannot be looked for \(.*null byte"):
        Location("x", LocalBackend(), f"{tmp_path}/a\0b").exists("run.json")


def test_a_folder_that_comes_and_goes_while_it_is_listed_is_listed_or_holds_nothing(tmp_path):
    folder, end = tmp_path / "run", threading.Event()

    def come_and_go():
        while not end.is_set():
            folder.mkdir()
            folder.rmdir()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert all(Location.of(str(folder)).entries() == [] for _ in range(3000))
    finally:
        end.set()
        thread.join()
