"""A run in a bucket, on a real server that speaks S3, on loopback."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from committed import committed
from pyarrow import fs

from raygen.errors import StoreError
from raygen.storage import Location
from raygen.store import Lock, Pace, Run, Unit, is_held

pytest.importorskip("moto.server")

Call = Callable[..., Any]
TINY = ("--chains", "2", "--draws", "2", "--thin", "1", "--warm-up", "2", "--steps", "1", "--batch", "2")
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        while not answers(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    options = f"endpoint_override={server}&scheme=http&region=us-east-1"
    top, _ = fs.FileSystem.from_uri(f"s3://raygen-test?{options}&allow_bucket_creation=true")
    top.create_dir("raygen-test")
    return lambda folder: f"s3://raygen-test/{folder}?{options}"


def rows(run: Run, unit: Unit) -> str:
    # As text a NaN is itself.
    return str(run.samples(unit).to_pylist())


def test_what_is_written_to_a_bucket_is_read_back_and_listed(bucket: Callable[[str], str]) -> None:
    folder = Location.of(bucket("folder"))
    assert folder.entries() == []
    folder.write("a/b.bin", b"one")
    folder.write("a/b.bin", b"two")
    folder.within("a").write("c.bin", b"three")
    assert folder.read("a/b.bin") == b"two"
    assert folder.names(recursive=True) == ["a/b.bin", "a/c.bin"]
    assert folder.within("a").text == bucket("folder/a")
    assert Location.of(folder.within("a").text).names() == ["b.bin", "c.bin"]
    folder.remove("a/b.bin")
    folder.remove("a/b.bin")
    assert not folder.exists("a/b.bin")
    with pytest.raises(StoreError, match=r"a/b\.bin cannot be read"):
        folder.read("a/b.bin")


def test_a_bucket_that_is_not_there_is_refused_at_once(bucket: Callable[[str], str]) -> None:
    folder = Location.of(bucket("run").replace("raygen-test", "nowhere-at-all"))
    with pytest.raises(StoreError, match=r"a cannot be written .*; give a folder that can be written"):
        folder.write("a", b"x")


def test_a_bucket_has_one_run_at_a_time(bucket: Callable[[str], str]) -> None:
    pace = Pace(renew=0.2, stale=30, settle=0.2)
    folder = Location.of(bucket("locked"))
    with Lock(folder, "run.json", pace=pace) as lock:
        with pytest.raises(StoreError, match="another raygen works in it"), Lock(folder, "run.json", pace=pace):
            pass
        lock.check()
        assert is_held(folder)
    assert not is_held(folder)


def test_a_run_lives_in_a_bucket(bucket: Callable[[str], str], call: Call) -> None:
    folder = bucket("run")
    command = ("sample", "--nodes", "conv1:0-1", "--weights", "random", "--local", *TINY, "--out")
    made = call(*command, folder)
    assert (made.status, made.err) == (0, "")
    assert f"raygen gallery --out '{folder}'" in made.out
    assert call(*command, "here").status == 0
    remote, local = Run.open(folder), Run.open("here")
    assert committed(remote) == committed(local) == {"conv1-00000", "conv1-00001"}
    for unit in local.plan:
        assert rows(remote, unit) == rows(local, unit)
    said = call("status", folder, "--json")
    assert json.loads(said.out)["done"] == 2
    assert call("verify", folder).status == 0
    shown = call("gallery", "--out", folder)
    assert shown.status == 0, shown.err
    assert "8 pictures of 2 nodes" in shown.out
    assert Location.of(folder).exists("gallery/index.html")
    assert not Path("s3:").exists()

    torn = remote.plan[0].path
    remote.location.write(torn, remote.location.read(torn)[:-100])
    assert call("verify", folder).status == 3
    assert call("verify", folder, "--mend").status == 3
    assert "1 of 2 units were there already" in call(*command, folder).out
    assert call("verify", folder).status == 0
    for unit in local.plan:
        assert rows(remote, unit) == rows(local, unit)
