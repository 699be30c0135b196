"""A farm that is asked to stop: its actors save the units that they are at, and the rerun goes on from there."""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from waiting import wait_until

from raygen import stages
from raygen.cluster import SamplingActor
from raygen.config import SampleConfig
from raygen.errors import StoreError
from raygen.networks import NetworkSettings, list_layers, load_network, parse_nodes
from raygen.runs import FarmReport, begin_run, read_status, sample_unit
from raygen.sampling import SamplingSettings, UnitProgress, UnitSampler
from raygen.store import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LONG = {"nodes": "conv1:0-1", "chains": 2, "draws": 1500, "thin": 4, "warm_up": 8, "steps": 4, "batch": 2, "seed": 5}
LONG |= {"reference": "white", "actors": 2, "save_every": 1e6}
TRAJECTORIES = 8 + 1500 * 4
STOPPED = "raygen: stopped; what is finished is kept, and the same command continues from there"


class StoppedError(BaseException):
    """A request to stop."""


def config_of(weights: Path, out: Path, **changes: object) -> SampleConfig:
    return SampleConfig.parse({**LONG, "weights": str(weights), "out": str(out), **changes}, where="test")


def ignore(_: FarmReport) -> None:
    pass


def stop_midway(report: FarmReport) -> None:
    if len(report.running) == 2 and min(unit.fraction for unit in report.running) > 0.1:
        raise StoppedError


def states(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out / "state")) for path in (out / "state").rglob("*") if path.is_file())


def tables(out: Path) -> dict[str, Any]:
    run = Run.open(str(out))
    return {unit.name: run.samples(unit).to_pydict() for unit in run.plan}


def trajectories_left(weights: Path, out: Path) -> list[int]:
    """Finish the units of a folder here, and return how many trajectories each had still to make."""
    run, settings = Run.open(str(out)), SamplingSettings.part_of(config_of(weights, out))
    network = load_network(NetworkSettings(weights=str(weights)))
    counts = []
    for unit in run.plan:
        seen: list[UnitProgress] = []
        sample_unit(run, UnitSampler(network, settings, None, torch.device("cpu")), unit, seen.append)
        counts.append(len(seen))
    return counts


@pytest.fixture(scope="module")
def undisturbed(lenet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this process samples without Ray."""
    out = tmp_path_factory.mktemp("here") / "run"
    stages.sample(config_of(lenet_file, out, local=True), ignore)
    return tables(out)


def check_that_it_goes_on(weights: Path, out: Path, undisturbed: dict[str, Any], made: float) -> None:
    """See that a copy of a stopped run needs only the rest, and comes to the same samples."""
    assert states(out) == ["conv1-00000.safetensors", "conv1-00001.safetensors"]
    copy = out.parent / "copy"
    shutil.copytree(out, copy)
    for left in trajectories_left(weights, copy):
        print(f"{left} of {TRAJECTORIES} trajectories were left")
        assert 0 < left <= TRAJECTORIES * (1 - made)
    assert tables(copy) == undisturbed and states(copy) == []


def terminate_thrice(process: "subprocess.Popen[str]") -> None:
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)


def interrupt(process: "subprocess.Popen[str]") -> None:
    """Do as a terminal does on Ctrl-C, which Ray's own processes get as well."""
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize(("stop", "status"), [(terminate_thrice, 143), (interrupt, 130)])
def test_a_command_stopped_in_the_middle_of_its_units_goes_on_from_there_to_the_same_samples(
    stop: Callable[["subprocess.Popen[str]"], None],
    status: int,
    launcher: Any,
    lenet_file: Path,
    tmp_path: Path,
    undisturbed: dict[str, Any],
) -> None:
    out = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in LONG.items()]
    process = launcher.raygen("sample", "--out", out, "--weights", lenet_file, *options)

    def told() -> list[float]:
        """How far both units were when the driver last wrote it."""
        running = read_status(Run.open(str(out))).report.get("running", []) if (out / "run.json").exists() else []
        return running if len(running) == 2 and min(running) > 0 else []

    wait_until(lambda: bool(told()), process)
    made = min(told())
    start = time.monotonic()
    stop(process)
    _, err = process.communicate(timeout=60)
    print(f"left after {time.monotonic() - start:.1f} s")
    assert (process.returncode, err.strip()) == (status, STOPPED)
    wait_until(lambda: not [pid for pid in launcher.alive() if pid != os.getpid()])
    check_that_it_goes_on(lenet_file, out, undisturbed, made)
    again = launcher.run(sys.executable, "-m", "raygen", "sample", "--out", out, "--weights", lenet_file, *options)
    assert (again.returncode, again.stderr) == (0, "")
    assert tables(out) == undisturbed and states(out) == []


@pytest.mark.usefixtures("cluster")
def test_a_farm_that_is_stopped_saves_all_that_its_units_have_come_to(
    lenet_file: Path, tmp_path: Path, undisturbed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        stages.sample(config_of(lenet_file, out), stop_midway)
    assert caplog.text == ""
    check_that_it_goes_on(lenet_file, out, undisturbed, made=0.1)
    reports: list[FarmReport] = []
    stages.sample(config_of(lenet_file, out), reports.append)
    told = [unit.fraction for report in reports for unit in report.running if unit.fraction]
    assert min(told, default=1.0) > 0.1, "a farm goes on from there too"
    assert tables(out) == undisturbed


@pytest.mark.usefixtures("cluster")
def test_a_farm_that_is_stopped_saves_nothing_where_no_states_are_wanted(lenet_file: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        stages.sample(config_of(lenet_file, tmp_path / "run", save_every=0), stop_midway)
    assert states(tmp_path / "run") == []


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_hangs_costs_the_others_nothing_when_the_farm_is_stopped_and_is_told_of(
    lenet_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hung: list[psutil.Process] = []

    def hang_one_and_stop(report: FarmReport) -> None:
        with contextlib.suppress(StoppedError):
            stop_midway(report)
            return
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "ray::SamplingActor" in " ".join(process.cmdline()) and not hung:
                    process.suspend()
                    hung.append(process)
        raise StoppedError

    try:
        with caplog.at_level(logging.WARNING, "raygen"), pytest.raises(StoppedError):
            stages.sample(config_of(lenet_file, tmp_path / "run"), hang_one_and_stop)
    finally:
        for process in hung:
            with contextlib.suppress(psutil.Error):
                process.kill()
    assert len(states(tmp_path / "run")) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 2 actors did not save the last state of their unit: no answer within 10 s"
    ]


@pytest.mark.usefixtures("cluster")
def test_a_farm_stopped_before_its_actors_are_there_ends_at_once(lenet_file: Path, tmp_path: Path) -> None:
    def stop(_: FarmReport) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        stages.sample(config_of(lenet_file, tmp_path / "run"), stop)
    assert states(tmp_path / "run") == []


def test_an_actor_whose_unit_has_failed_saves_nothing_of_it_for_another_may_have_it(
    lenet_file: Path, tmp_path: Path
) -> None:
    network = load_network(NetworkSettings(weights=str(lenet_file)))
    settings = SamplingSettings(reference="white", chains=2, draws=2, thin=1, warm_up=2, steps=2)
    nodes = parse_nodes("conv1:0", network, list_layers(network))
    run = begin_run(str(tmp_path / "run"), network, nodes, settings, images=None, about={})
    (tmp_path / "run" / "samples").write_text("a file where the folder should be")
    actor = SamplingActor(run, network, None, settings, {}, threads=1, gpu=False, save_every=1e6)
    with pytest.raises(StoreError):
        actor.sample(0, run.plan[0])
    assert (actor.save(), states(tmp_path / "run")) == ("", [])
