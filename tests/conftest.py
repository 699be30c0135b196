"""Processes that tests start, and all that those start: found again by a mark in their environment, and ended."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MARK = "RAYGEN_TEST_MARK"


class Launcher:
    """Starts commands in sessions of their own, with a home and a Ray of their own.

    Attributes:
        env: their environment.
    """

    def __init__(self, home: Path) -> None:
        self.mark = uuid.uuid4().hex
        # Ray's sockets need a short path, which pytest's folders are not.
        self.scratch = tempfile.mkdtemp(prefix="rg-")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.env = inherited | {
            MARK: self.mark,
            "HOME": str(home),
            "RAY_TMPDIR": self.scratch,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}',
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *command: str | Path, **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env=self.env | env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def raygen(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        return self.start(sys.executable, "-m", "raygen", *arguments)

    def run(self, *command: str | Path, timeout: float = 240, **env: str) -> "subprocess.CompletedProcess[str]":
        """Wait for a command; return its status and what it said."""
        with self.start(*command, **env) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                self.end()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def alive(self) -> list[int]:
        """The processes that bear the mark, their children and daemons included."""
        import ray  # noqa: F401  (its wheel brings psutil)
        import psutil  # isort: skip

        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def end(self) -> None:
        """End them all, at once and without warning."""
        deadline = time.monotonic() + 30
        while (pids := self.alive()) and time.monotonic() < deadline:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)
        assert not self.alive()


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    home = tmp_path / "home"
    home.mkdir()
    made = Launcher(home)
    yield made
    made.end()
    shutil.rmtree(made.scratch, ignore_errors=True)


@pytest.fixture(scope="session")
def lenet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained LeNet as a raygen checkpoint."""
    from raygen.networks import NetworkSettings, load_network, save_checkpoint

    network = load_network(NetworkSettings(network="lenet", weights="random"), seed=3)
    path = tmp_path_factory.mktemp("lenet") / "lenet.safetensors"
    save_checkpoint(path, network.module, description_of_lenet())
    return path


def description_of_lenet() -> dict[str, object]:
    return {
        "network": "lenet",
        "arguments": {},
        "input_shape": [1, 28, 28],
        "mean": [0.0],
        "std": [256 / 255],
        "class_names": [str(digit) for digit in range(10)],
    }


@pytest.fixture(scope="session")
def lenet_description() -> dict[str, object]:
    return description_of_lenet()
