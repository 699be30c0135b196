"""How a command ends that is stopped: one line, and status 130 or 143."""

import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from committed import committed
from waiting import wait_until

from raygen.store import Run

TINY = ("--chains", "2", "--draws", "2", "--thin", "1", "--warm-up", "2", "--steps", "1", "--batch", "2")
STOPPED = "raygen: stopped; what is finished is kept, and the same command continues from there"


def start_and_stop(sent: signal.Signals, launcher: Any, folder: Path) -> "tuple[list[Any], int, str]":
    """Send a signal to a command that has finished a unit; return the command, its status and what it said."""
    command = ["sample", "--out", folder, "--nodes", "conv1:0-4", "--weights", "random", "--local", *TINY]
    command += ["--draws", "100"]
    process = launcher.raygen(*command)
    wait_until(lambda: any(folder.glob("samples/conv1/*.parquet")), process)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    return command, process.returncode, err.strip()


def test_a_command_stopped_by_ctrl_c_says_so_in_one_line_and_goes_on_when_run_again(
    launcher: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command, status, said = start_and_stop(signal.SIGINT, launcher, folder)
    assert (status, said) == (130, STOPPED)
    run = Run.open(str(folder))
    kept = {unit: (folder / "samples/conv1" / f"{unit}.parquet").read_bytes() for unit in committed(run)}
    assert 0 < len(kept) < 5
    done = launcher.run(sys.executable, "-m", "raygen", *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(committed(run)) == 5
    assert {unit: (folder / "samples/conv1" / f"{unit}.parquet").read_bytes() for unit in kept} == kept


@pytest.mark.slow
def test_a_command_stopped_by_its_scheduler_says_the_same(launcher: Any, tmp_path: Path) -> None:
    _, status, said = start_and_stop(signal.SIGTERM, launcher, tmp_path / "run")
    assert (status, said) == (143, STOPPED)


@pytest.mark.slow
def test_a_second_request_to_stop_does_not_interrupt_what_the_first_one_lets_be_saved(
    launcher: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = ["sample", "--out", folder, "--nodes", "conv1:0", "--weights", "random", "--local", *TINY]
    process = launcher.raygen(*command, "--draws", "100000", "--save-every", "100000")
    wait_until((folder / "status.json").exists, process)  # written after some trajectories
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    _, err = process.communicate(timeout=60)
    # The last one may come after all is said and saved.
    assert (process.returncode in {143, -signal.SIGTERM}, err.strip()) == (True, STOPPED)
    assert [path for path in (folder / "state").rglob("*") if path.is_file()]
