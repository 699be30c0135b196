"""Processes that tests start, and all that those start: found again by a mark in their environment, and ended."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
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

    def start(self, *command: str | Path, **env: str | None) -> "subprocess.Popen[str]":
        """Start a command; ``env`` goes before the environment, None takes a variable out of it."""
        return subprocess.Popen(
            # What a shell starts in the background ignores Ctrl-C, and so would all that it starts.
            ["env", "--default-signal=INT", *(str(part) for part in command)],
            cwd=ROOT,
            env={name: value for name, value in (self.env | env).items() if value is not None},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def raygen(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        return self.start(sys.executable, "-m", "raygen", *arguments)

    def run(self, *command: str | Path, timeout: float = 240, **env: str | None) -> "subprocess.CompletedProcess[str]":
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
        found = []
        for folder in Path("/proc").iterdir():
            # One that has ended, or is another user's, cannot be read.
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    def end(self) -> None:
        """End them all, at once and without warning."""
        deadline = time.monotonic() + 30
        while (pids := self.alive()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        assert not self.alive()

    def close(self) -> None:
        """End them all, and leave nothing behind."""
        self.end()
        shutil.rmtree(self.scratch, ignore_errors=True)


@pytest.fixture(scope="session")
def launcher_at() -> Iterator[Callable[[Path], Launcher]]:
    """Make a launcher whose home is in the folder given; what they started is ended at the end."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("processes cannot be found again by their environment here")
    made: list[Launcher] = []

    def make(folder: Path) -> Launcher:
        home = folder / "home"
        home.mkdir()
        made.append(Launcher(home))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


@pytest.fixture
def launcher(launcher_at: Callable[[Path], Launcher], tmp_path: Path) -> Iterator[Launcher]:
    made = launcher_at(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def ray_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for every Ray of this process, which keeps the first access token that it reads there."""
    return tmp_path_factory.mktemp("home")


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
