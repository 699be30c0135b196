"""A driver killed at moments from its first commit to its end: its rerun ends with the same samples, and no trace."""

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from raygen.store import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MOMENTS = 5
SAMPLING = {"nodes": "conv1:0-11", "chains": 2, "draws": 40, "thin": 4, "warm-up": 8, "steps": 4, "batch": 1, "seed": 7}


def start(launcher: Any, weights: Path, out: Path, *others: str) -> "subprocess.Popen[str]":
    options = [f"--{name}={value}" for name, value in SAMPLING.items()]
    return launcher.raygen("sample", *options, "--weights", weights, "--out", out, "--save-every=0.05", *others)


def finish(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    return out


def samples(out: Path) -> list[Path]:
    return sorted(out.glob("samples/*/*.parquet"))


def tables(out: Path) -> dict[str, Any]:
    run = Run.open(str(out))
    return {unit.name: run.samples(unit).to_pydict() for unit in run.plan}


def files(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*")}


def has_begun(out: Path) -> Callable[[], bool]:
    return lambda: bool(samples(out))


@pytest.fixture(scope="module")
def undisturbed(
    launcher_at: Callable[[Path], Any], lenet_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, float]:
    """A whole run, and how many seconds of it there were after the first commit."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(launcher_at(folder), lenet_file, folder / "run", "--local")
    wait_until(has_begun(folder / "run"), process)
    begin = time.monotonic()
    finish(process)
    return folder / "run", time.monotonic() - begin


def check_rerun(launcher: Any, weights: Path, out: Path, whole: Path, *others: str) -> None:
    """Run again; nothing that was committed is made anew, and nothing else is left."""
    made = {path: path.read_bytes() for path in samples(out)}
    told = finish(start(launcher, weights, out, *others))
    assert f"{len(made)} of 12 units were there already" in told or len(made) in {0, 12}
    assert all(path.read_bytes() == data for path, data in made.items())
    assert tables(out) == tables(whole)
    assert files(out) == files(whole)


@pytest.mark.parametrize("number", range(MOMENTS))
def test_a_driver_killed_at_a_random_moment_leaves_no_trace_in_what_its_rerun_makes(
    number: int, launcher: Any, lenet_file: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    whole, seconds = undisturbed
    # One from each part of the time, so that they reach from the first commit to the end.
    moment = seconds * (number + random.Random(number).random()) / MOMENTS
    out = tmp_path / "run"
    process = start(launcher, lenet_file, out, "--local")
    wait_until(has_begun(out), process)
    time.sleep(moment)
    launcher.end()
    process.communicate()
    assert samples(out)
    check_rerun(launcher, lenet_file, out, whole, "--local")


SEEN: dict[str, Callable[[Path], bool]] = {
    "a state is written": lambda out: any(out.glob("state/*")),
    "a status is written": lambda out: (out / "status.json").exists(),
    "the last unit is committed": lambda out: len(samples(out)) == 12,
}


@pytest.mark.parametrize("seen", SEEN)
def test_a_driver_killed_as_something_is_written_leaves_no_trace(
    seen: str, launcher: Any, lenet_file: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(launcher, lenet_file, out, "--local")
    deadline = time.monotonic() + 100
    while not (samples(out) and SEEN[seen](out)) and process.poll() is None:
        assert time.monotonic() < deadline
    launcher.end()
    process.communicate()
    check_rerun(launcher, lenet_file, out, undisturbed[0], "--local")


@pytest.mark.parametrize("number", range(2))
def test_a_driver_of_a_farm_killed_with_its_ray_leaves_no_trace(
    number: int, launcher: Any, lenet_file: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(launcher, lenet_file, out, "--actors=2")
    wait_until(has_begun(out), process)
    time.sleep(undisturbed[1] / 2 * random.Random(100 + number).random())
    launcher.end()
    process.communicate()
    check_rerun(launcher, lenet_file, out, undisturbed[0], "--actors=2")
