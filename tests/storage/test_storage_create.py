"""A file that is written only where there is none: in one step where the storage can; where it cannot, it is said."""

import errno
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from failing_storage import Moody, failing_location

from raygen.storage import Location

CREATE = """
import os, sys
from raygen.storage import Location

place, count = Location.of(sys.argv[1]), int(sys.argv[2])
start, go = os.pipe()
told, tell = os.pipe()
for number in range(count):
    if os.fork():
        continue
    os.close(go)
    os.read(start, 1)
    if place.create("file", bytes([number]) * 100_000):
        os.write(tell, bytes([number]))
    os._exit(0)
os.close(go), os.close(tell)
for _ in range(count):
    os.wait()
print(list(os.read(told, 4096)))
"""


@pytest.mark.parametrize("turn", range(5))
def test_of_many_processes_one_creates_a_file_and_it_is_whole(tmp_path, turn):
    folder = tmp_path / "new"
    command = [sys.executable, "-c", CREATE, str(folder), "12"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (number,) = (number for number in range(12) if said.strip() == f"[{number}]")
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_bytes() == bytes([number]) * 100_000


def unlinkable(*given: object) -> None:
    raise OSError(errno.EPERM, "no second names here")


@pytest.mark.parametrize("kind", ["disk", "disk without links", "behind pyarrow"])
def test_what_is_there_stays(tmp_path, monkeypatch, kind):
    if kind == "disk without links":
        monkeypatch.setattr(os, "link", unlinkable)
    place = failing_location(Moody(every=10**9), tmp_path) if "pyarrow" in kind else Location.of(str(tmp_path))
    assert place.create("file", b"first")
    assert not place.create("file", b"second")
    assert place.read("file") == b"first"
    assert place.names() == ["file"]


def test_a_disk_that_fails_for_a_moment_is_asked_again(tmp_path, monkeypatch):
    link, left = os.link, [errno.EIO, errno.ETIMEDOUT]

    def link_later(source: str, target: str) -> None:
        if left:
            raise OSError(left.pop(), "the disk went away")
        link(source, target)

    monkeypatch.setattr(os, "link", link_later)
    place = Location.of(str(tmp_path))
    assert Location(place.text, place.backend, place.root, (0.0, 0.0, 0.0)).create("file", b"it")
    assert (tmp_path / "file").read_bytes() == b"it"
    assert place.names() == ["file"]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A real S3 server on loopback."""
    pytest.importorskip("moto.server")
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("EC2_METADATA_DISABLED", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(number)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", number), timeout=1).close()
                    break
                except OSError:
                    assert server.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            yield number
        finally:
            server.terminate()


def test_an_s3_server_knows_the_condition_and_pyarrow_drops_it(port):
    from pyarrow import fs

    place = Location.of(
        f"s3://locks/run?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    )
    server = fs.S3FileSystem(endpoint_override=f"127.0.0.1:{port}", scheme="http", region="us-east-1",
                             allow_bucket_creation=True)  # fmt: skip
    server.create_dir("locks")
    assert place.create("file", b"first")
    assert not place.create("file", b"second")
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/locks/run/file", b"third", {"If-None-Match": "*"}, method="PUT"
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=60)
    refused.value.close()
    assert refused.value.code == 412
    assert place.read("file") == b"first"
    # Once this is refused, ``ArrowBackend.create`` can be one step, and locks there need no reading back.
    with server.open_output_stream("locks/run/file", metadata={"If-None-Match": "*"}) as stream:
        stream.write(b"fourth")
    assert place.read("file") == b"fourth"
