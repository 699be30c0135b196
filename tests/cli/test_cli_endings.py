"""How a command ends that cannot go on: 3 where parts are missing, 130 and 143 where it was stopped."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raygen.networks import NetworkSettings, load_network, save_checkpoint
from raygen.store import Run

TINY = ("--chains", "2", "--draws", "2", "--thin", "1", "--warm-up", "2", "--steps", "1", "--batch", "2")


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_command_that_is_stopped_says_so_in_one_line_and_goes_on_when_run_again(
    sent: signal.Signals, status: int, launcher: Any, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    command = ["sample", "--out", place, "--nodes", "conv1:0-4", "--weights", "random", "--local", *TINY]
    command += ["--draws", "100"]
    process = launcher.raygen(*command)
    wait_for(process, lambda: any(place.glob("samples/conv1/*.parquet")))
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err.strip() == "raygen: stopped; what is finished is kept, and the same command goes on from there"
    run = Run.open(str(place))
    kept = {unit: (place / "samples/conv1" / f"{unit}.parquet").read_bytes() for unit in run.done()}
    assert 0 < len(kept) < 5
    done = launcher.run(sys.executable, "-m", "raygen", *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(run.done()) == 5
    assert {unit: (place / "samples/conv1" / f"{unit}.parquet").read_bytes() for unit in kept} == kept


def wait_for(process: "subprocess.Popen[str]", happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_farm_that_sets_a_unit_aside_ends_with_3_and_names_it(
    launcher: Any, tmp_path: Path, lenet_description: dict[str, object]
) -> None:
    network = load_network(NetworkSettings(weights="random"))
    with torch.no_grad():
        network.module.get_parameter("conv1.weight")[1] = float("nan")
    save_checkpoint(tmp_path / "nan.safetensors", network.module, lenet_description)
    done = launcher.run(
        sys.executable, "-m", "raygen", "sample", "--out", tmp_path / "run", "--nodes", "conv1:0-2",
        "--weights", tmp_path / "nan.safetensors", *TINY,
    )  # fmt: skip
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "1 of 3 units were set aside, conv1-00001; conv1-00001: " in done.stderr
