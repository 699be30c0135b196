"""Storage that fails for a moment is waited for; storage that refuses says so at once; nothing is lost or torn."""

import errno
import subprocess
from pathlib import Path

import pytest
from failing_storage import Moody, failing_location

from raygen.errors import StoreError
from raygen.storage import LocalBackend, Location, below
from raygen.storage.retry import is_transient, persist


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_storage_that_fails_now_and_then_is_written_read_and_emptied(tmp_path):
    moody = Moody(every=7)
    location = failing_location(moody, tmp_path)
    for number in range(20):
        location.write(f"a/{number}.bin", bytes([number]) * 100)
    assert moody.failed > 5
    assert location.names("a") == sorted(f"{number}.bin" for number in range(20))
    for number in range(20):
        assert location.exists(f"a/{number}.bin")
        assert location.read(f"a/{number}.bin") == bytes([number]) * 100
    # A write that failed on its way may have left a scrap where removing it failed too: nothing else.
    assert {name for name in files(tmp_path) if not name.endswith(".tmp")} == {f"a/{n}.bin" for n in range(20)}
    for number in range(20):
        location.remove(f"a/{number}.bin")
    assert not [name for name in files(tmp_path) if not name.endswith(".tmp")]


def test_storage_that_stays_away_is_told_after_some_tries(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    for what, act in {
        "a cannot be written": lambda location: location.write("a", b"new"),
        "a cannot be read": lambda location: location.read("a"),
        "a cannot be looked for": lambda location: location.exists("a"),
        "cannot be listed": lambda location: location.names(),
        "the folder cannot be listed": lambda location: location.entries(),
    }.items():
        moody = Moody(every=1)
        with pytest.raises(StoreError, match=rf"moody://pictures: .*{what}"):
            act(failing_location(moody, tmp_path))
        assert moody.failed >= 4
    assert files(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_storage_that_refuses_is_not_asked_again(tmp_path, number):
    moody = Moody(number, every=1)
    with pytest.raises(StoreError, match="cannot be read"):
        failing_location(moody, tmp_path, (1000.0,)).read("a")
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
    location = Location(str(tmp_path), LocalBackend(), str(tmp_path), (1000.0,))
    with pytest.raises(StoreError, match="cannot be read"):
        location.read("absent")


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
    location = Location(str(small_disk), LocalBackend(), str(small_disk), (1000.0,))
    location.write("kept", bytes(40_000))
    with pytest.raises(StoreError, match=r"more cannot be written .*No space left.*; give a folder .* with room left"):
        location.write("more", bytes(40_000))
    assert files(small_disk) == {"kept": bytes(40_000)}
    location.write("kept", bytes(4_000))
    location.write("more", bytes(40_000))
    assert location.names() == ["kept", "more"]
