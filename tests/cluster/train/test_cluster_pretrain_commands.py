"""The command ``raygen pretrain``, killed, torn and stopped, and run again."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretrain_networks import search_path
from waiting import wait_until

from raygen.storage import Location
from raygen.training import TrainingFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ASKED = {"limit": 200, "epochs": 4, "generative_epochs": 3, "workers": 2, "seed": 4, "channels": 1, "input_size": 28}
ASKED |= {"network": "pretrain_networks:slow_lenet", "arguments": {"pause": 0.6}, "mean": [0.0], "std": [1.0]}
STOPPED = "raygen: stopped; what is finished is kept, and the same command continues from there"


def command(folder: Path, out: Path) -> list[str]:
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps({**ASKED, "out": str(out)}))
    return [sys.executable, "-m", "raygen", "pretrain", "--config", str(folder / "config.yaml")]


def start(launcher: Any, folder: Path, out: Path) -> "subprocess.Popen[str]":
    return launcher.start(*command(folder, out), PYTHONPATH=search_path())


def finish(launcher: Any, folder: Path, out: Path) -> None:
    done = launcher.run(*command(folder, out), PYTHONPATH=search_path(), timeout=400)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def undisturbed(launcher_at: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(launcher_at(folder), folder, folder / "run")
    return folder / "run"


def test_a_driver_killed_and_all_that_is_written_torn_costs_an_epoch_and_changes_nothing(
    launcher: Any, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(launcher, tmp_path, out)
    wait_until((out / "states" / "epoch-00002.pt").exists, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 60
    while workers_of(launcher):
        assert time.monotonic() < deadline, "workers without a driver train on"
        time.sleep(0.1)
    assert not (out / "network.safetensors").exists()
    written = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in written if "ray" in path.parts or "snapshot" in path.name], "Ray's notes are elsewhere"
    states = sorted((out / "states").glob("*.pt"))
    for path in (out / "metrics.jsonl", states[-1]):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    leave_old_notes(out)
    resumed = TrainingFolder(Location.of(str(out))).newest_state()
    assert resumed is not None
    assert resumed["epoch"] == epoch_of(states[-1]) - 1
    finish(launcher, tmp_path, out)
    assert (out / "network.safetensors").read_bytes() == (undisturbed / "network.safetensors").read_bytes()
    assert losses(out) == losses(undisturbed)


def workers_of(launcher: Any) -> list[int]:
    found = []
    for pid in launcher.alive():
        # It may have ended meanwhile.
        with contextlib.suppress(OSError):
            if b"TrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def epoch_of(path: Path) -> int:
    return int(path.stem.removeprefix("epoch-"))


def leave_old_notes(out: Path) -> None:
    """Put torn notes of Ray Train where an older raygen kept them, and where a new one could look for them."""
    whole = json.dumps({"ray_version": "2.60.0", "checkpoint_results": [{"checkpoint_dir_name": "checkpoint_1"}]})
    for name, torn in (("ray", whole[: len(whole) // 2]), ("training", ""), ("states", "\x00\x01}{")):
        (out / name).mkdir(exist_ok=True)
        (out / name / "checkpoint_manager_snapshot.json").write_text(torn)


def losses(out: Path) -> list[tuple[int, float]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [(report["epoch"], report["loss"]) for report in map(json.loads, lines)]


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_is_stopped_says_so_in_one_line_and_leaves_no_process(
    launcher: Any, tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    out = tmp_path / "run"
    process = start(launcher, tmp_path, out)
    wait_until((out / "states" / "epoch-00001.pt").exists, process)
    process.send_signal(sent)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err.strip()) == (status, STOPPED)
    assert not (out / "network.safetensors").exists()
    deadline = time.monotonic() + 30
    while launcher.alive():
        assert time.monotonic() < deadline
        time.sleep(0.1)
