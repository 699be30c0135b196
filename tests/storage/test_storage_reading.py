"""What is read is a file, and no more of it than was allowed or fits into memory."""

import socket
import subprocess
import sys

import pytest

from raygen.errors import StoreError
from raygen.storage import LocalBackend, Location


def test_a_socket_is_refused_at_once(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(StoreError, match=r"socket cannot be read \("):
            Location("x", LocalBackend(), str(tmp_path), waits=(1000.0,)).read("socket")


@pytest.mark.parametrize("text", ["{}", "file://{}"])
def test_a_file_that_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path, text):
    # A hole: it takes no room on the disk, and would take a tebibyte of memory.
    with (tmp_path / "hole").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(StoreError, match=r"hole cannot be read \(.*1,099,511,627,776 bytes do not fit into memory\)"):
        Location.of(text.format(tmp_path)).read("hole")


_READ_WITH_LITTLE_MEMORY = """
import resource, sys
from raygen.errors import StoreError
from raygen.storage import Location
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
try:
    Location.of(sys.argv[1]).read("hole")
except StoreError as error:
    sys.exit(str(error))
"""


def test_a_file_beyond_what_this_process_may_have_is_refused(tmp_path):
    with (tmp_path / "hole").open("wb") as stream:
        stream.truncate(2**30)
    ended = subprocess.run(
        [sys.executable, "-c", _READ_WITH_LITTLE_MEMORY, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "hole cannot be read (it does not fit into memory)" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("text", ["{}", "file://{}"])
def test_no_more_is_read_than_a_file_may_have(tmp_path, text):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    location = Location.of(text.format(tmp_path))
    assert location.read("a", most=100) == location.read("a") == bytes(range(100))
    with pytest.raises(StoreError, match=r"a is larger than 99 bytes; give what raygen wrote"):
        location.read("a", most=99)
    with (tmp_path / "hole").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(StoreError, match="hole is larger than 99 bytes"):
        location.read("hole", most=99)
