"""Ray's own processes killed under the commands: one line that says what died, and the same command goes on."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import wait_until

from raygen.cluster.lifeline import Lifeline, head_part, own_parts
from raygen.errors import UnfinishedError
from raygen.store import Run

SAMPLING = {"nodes": "conv1:0-5", "chains": 2, "draws": 120, "thin": 8, "warm_up": 8, "steps": 4, "batch": 1}
SAMPLING |= {"network": "lenet", "weights": "random", "reference": "white", "seed": 2}
TRAINING = {"limit": 300, "epochs": 6, "generative_epochs": 3, "workers": 2, "seed": 4}
TUNING = {"nodes": "conv1:0-2", "chains": 2, "draws": 200, "thin": 4, "warm_up": 4, "steps": 4, "seed": 6}
TUNING |= {"contrasts": [1.0, 3.0], "step_sizes": [0.1, 0.3]}
TUNING |= {"network": "lenet", "weights": "random", "reference": "white"}
NAMES = {"gcs_server": "head process (GCS)", "raylet": "process on this machine (raylet)"}


def config(folder: Path, **values: object) -> Path:
    file = folder / "config.yaml"
    file.write_text(json.dumps({**values, "out": str(folder / "run")}))
    return file


def find(process: "subprocess.Popen[str]", program: str) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if child.name() == program]


def kill(process: "subprocess.Popen[str]", program: str, moment: Callable[[], bool]) -> None:
    """Kill Ray's process at a moment; see that the command says so in one line."""
    wait_until(lambda: bool(find(process, program)), process)
    wait_until(moment, process)
    find(process, program)[0].kill()
    # Ray itself would wait for a minute.
    _, err = process.communicate(timeout=50)
    line = f"raygen: Ray's {NAMES[program]} died; what is finished is kept, and the same command continues from there\n"
    assert (err, process.returncode) == (line, 3)


def at_once() -> bool:
    return True


def finish(launcher: Any, command: str, file: Path) -> None:
    done = launcher.run(sys.executable, "-m", "raygen", command, "--config", file)
    assert done.returncode == 0, done.stderr


def tables(out: Path) -> dict[str, Any]:
    run = Run.open(str(out))
    return {unit.name: run.samples(unit).to_pydict() for unit in run.plan}


@pytest.fixture(scope="module")
def undisturbed(launcher_at: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is sampled without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(launcher_at(folder), "sample", config(folder, **SAMPLING, local=True))
    return tables(folder / "run")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("program", "midway"), [("gcs_server", False), ("gcs_server", True), ("raylet", True)])
def test_sampling_whose_ray_dies_says_so_in_one_line_and_goes_on_to_the_same_samples(
    program: str, midway: bool, launcher: Any, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    file, samples = config(tmp_path, **SAMPLING, actors=2), tmp_path / "run" / "samples"
    process = launcher.raygen("sample", "--config", file)
    kill(process, program, (lambda: any(samples.rglob("*.parquet"))) if midway else at_once)
    made = {path: path.read_bytes() for path in samples.rglob("*.parquet")}
    finish(launcher, "sample", file)
    assert tables(tmp_path / "run") == undisturbed
    assert bool(made) == midway
    assert all(path.read_bytes() == data for path, data in made.items()), "what was written is kept"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("program", ["raylet"])
def test_a_search_whose_ray_dies_keeps_its_trials(program: str, launcher: Any, tmp_path: Path) -> None:
    file, trials = config(tmp_path, **TUNING), tmp_path / "run" / "trials"
    process = launcher.raygen("tune", "--config", file)
    kill(process, program, lambda: any(trials.glob("*.json")))
    made = {path: path.stat().st_mtime_ns for path in trials.iterdir()}
    finish(launcher, "tune", file)
    assert made.items() <= {path: path.stat().st_mtime_ns for path in trials.iterdir()}.items()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("program", ["gcs_server"])
def test_a_training_whose_ray_dies_goes_on_after_its_last_epoch(program: str, launcher: Any, tmp_path: Path) -> None:
    file, out = config(tmp_path, **TRAINING), tmp_path / "run"
    process = launcher.raygen("pretrain", "--config", file)
    kill(process, program, (out / "states" / "epoch-00001.pt").exists)
    finish(launcher, "pretrain", file)
    epochs = [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4, 5, 6]


def listening() -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(30)
    return server


def test_a_head_that_closes_its_port_ends_the_block_even_where_the_error_is_swallowed_once() -> None:
    server = listening()
    port, handler = server.getsockname()[1], signal.getsignal(signal.SIGURG)
    lifeline = Lifeline([head_part("127.0.0.1", port)])
    message = rf"^Ray's head \(GCS\) at 127\.0\.0\.1:{port} died; what is finished is kept"
    with pytest.raises(UnfinishedError, match=message), lifeline:
        server.accept()[0].close()
        server.close()
        with contextlib.suppress(BaseException):  # as a library does
            threading.Event().wait(30)
        threading.Event().wait(30)
    lifeline.close()
    assert signal.getsignal(signal.SIGURG) == handler


def test_a_head_that_closes_idle_connections_but_takes_others_is_alive() -> None:
    with listening() as server:
        part = head_part("127.0.0.1", server.getsockname()[1])
        for _ in range(3):
            assert part.is_alive()
            server.accept()[0].close()
        assert part.is_alive()
        part.close()


def test_an_error_of_ray_that_comes_before_its_death_is_seen_is_the_death(tmp_path: Path) -> None:
    # Known by its name.
    shutil.copy(str(shutil.which("sleep")), tmp_path / "raylet")
    lifeline = Lifeline(own_parts())
    with pytest.raises(UnfinishedError, match=r"^Ray's process on this machine \(raylet\) died"), lifeline:
        child = subprocess.Popen([tmp_path / "raylet", "60"])
        time.sleep(0.5)
        os.kill(child.pid, signal.SIGKILL)
        raise RuntimeError("what Ray says of it")
    lifeline.close()
    child.wait()


def test_an_error_of_ones_own_and_a_block_that_ends_pass_as_they_are() -> None:
    for error in (ValueError("mine"), KeyboardInterrupt()):
        lifeline = Lifeline(own_parts())
        with pytest.raises(type(error)), lifeline:
            raise error
        lifeline.close()
    lifeline = Lifeline(own_parts())
    with lifeline:
        pass
    lifeline.close()


HANGING = """
import socket, time, ctypes
from raygen.cluster.lifeline import Lifeline, head_part
server = socket.create_server(("127.0.0.1", 0))
with Lifeline([head_part("127.0.0.1", server.getsockname()[1])]):
    server.accept()[0].close()
    server.close()
    end = time.monotonic() + 60
    while time.monotonic() < end:  # compiled code that does not return to Python's signals
        try:
            time.sleep(60)
        except BaseException:
            pass
"""


def test_a_block_that_does_not_end_is_ended_with_the_line_and_its_status() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 3
    assert done.stderr.startswith("raygen: Ray's head (GCS) at 127.0.0.1:")
    assert len(done.stderr.splitlines()) == 1
