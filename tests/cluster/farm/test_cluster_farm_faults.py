"""Faults really caused on one machine: actors that are killed or hang, units that kill, commands that are stopped."""

import contextlib
import os
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from committed import committed
from waiting import wait_until

from raygen import stages
from raygen.cli import main
from raygen.config import SampleConfig
from raygen.runs import FarmReport
from raygen.store import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LONG = {"nodes": "conv1:0-7", "chains": 2, "draws": 60, "thin": 4, "warm_up": 8, "steps": 2, "batch": 2, "seed": 5}


def config_of(weights: Path, out: Path, **changes: object) -> SampleConfig:
    return SampleConfig.parse({**LONG, "weights": str(weights), "out": str(out), **changes}, where="test")


def ignore(_: FarmReport) -> None:
    pass


def tables(out: Path) -> dict[str, Any]:
    run = Run.open(str(out))
    return {unit.name: run.samples(unit).to_pydict() for unit in run.plan}


@pytest.fixture(scope="module")
def undisturbed(lenet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this process samples without Ray."""
    out = tmp_path_factory.mktemp("here") / "run"
    stages.sample(config_of(lenet_file, out, local=True), ignore)
    return tables(out)


class Saboteur(threading.Thread):
    """Sends a signal to the first actors that are seen at work, some time after they began."""

    def __init__(self, sent: signal.Signals, actors: int = 1) -> None:
        super().__init__()
        self.sent, self.actors = sent, actors
        self.hit: set[int] = set()
        self.stop = threading.Event()

    def run(self) -> None:
        import psutil  # of Ray's wheel

        while not self.stop.wait(0.02) and len(self.hit) < self.actors:
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
                    # Ray names its processes after what they are at.
                    if child.pid not in self.hit and "ray::SamplingActor.sample" in " ".join(child.cmdline()):
                        time.sleep(0.2)
                        child.send_signal(self.sent)
                        self.hit.add(child.pid)
                        break

    def __enter__(self) -> "Saboteur":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()


@pytest.mark.usefixtures("wide_cluster")
@pytest.mark.parametrize("actors", [1, 2, 4])
def test_the_samples_are_the_same_bit_for_bit_for_any_number_of_actors_and_two_deaths(
    actors: int, lenet_file: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    with Saboteur(signal.SIGKILL, 2) as saboteur:
        sampled = stages.sample(config_of(lenet_file, tmp_path / "run", actors=actors), ignore)
    assert len(saboteur.hit) == 2
    assert sampled.report.made.units == len(undisturbed) and not sampled.report.lost
    assert sampled.report.made.samples == sum(len(rows["chain"]) for rows in undisturbed.values())
    assert tables(tmp_path / "run") == undisturbed


@pytest.mark.usefixtures("wide_cluster")
def test_an_actor_that_hangs_is_replaced_after_its_deadline_and_the_samples_are_the_same(
    lenet_file: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    config = config_of(lenet_file, tmp_path / "run", actors=1, deadline=5)
    with Saboteur(signal.SIGSTOP) as saboteur:
        sampled = stages.sample(config, ignore)
    assert len(saboteur.hit) == 1
    assert not sampled.report.lost
    assert tables(tmp_path / "run") == undisturbed
    assert not Path(f"/proc/{saboteur.hit.pop()}").exists(), "what hung is not left behind"


POISON = '''
import os, signal
import torch

class Trap(torch.nn.Module):
    """Passes its input on in the process that made it, and kills every other that samples with it."""

    def __init__(self):
        super().__init__()
        self.home = os.getpid()

    def forward(self, x):
        if os.getpid() != self.home and x.requires_grad:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), Trap(), torch.nn.Conv2d(4, 1, 3), torch.nn.ReLU()
    )
'''


@pytest.mark.usefixtures("wide_cluster")
def test_a_unit_that_always_kills_its_process_is_set_aside_after_three_named_and_the_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "poison_net.py").write_text(POISON)
    monkeypatch.syspath_prepend(str(tmp_path))
    import poison_net
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(poison_net)
    out = tmp_path / "run"
    arguments = ["--network", "poison_net:network", "--nodes", "0:0-3 3:0", "--weights", "random", "--actors", "2"]
    arguments += ["--input-size", "12", "--channels", "1", "--batch", "2", "--steps", "1"]
    arguments += ["--chains", "2", "--draws", "2", "--thin", "1", "--warm-up", "2"]
    handler = signal.getsignal(signal.SIGTERM)
    try:
        status = main(["sample", "--out", str(out), *arguments])
    finally:
        signal.signal(signal.SIGTERM, handler)
        cloudpickle.unregister_pickle_by_value(poison_net)
        sys.modules.pop("poison_net")
    said = capsys.readouterr().err.strip().splitlines()
    assert status == 3, said
    assert "1 of 5 units were set aside, 3-00000; 3-00000: " in said[-1]
    run = Run.open(str(out))
    assert committed(run) == {unit.name for unit in run.plan} - {"3-00000"}


@pytest.mark.usefixtures("wide_cluster")
def test_what_a_farm_does_reaches_prometheus(lenet_file: Path, tmp_path: Path) -> None:
    import ray

    out = tmp_path / "run"
    sampled = stages.sample(config_of(lenet_file, out, actors=2), ignore)
    url = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    expected = {
        "ray_raygen_units_done_total": 8.0,
        "ray_raygen_chain_gradients_total": float(sampled.report.made.gradients),
        "ray_raygen_units_running": 0.0,
        "ray_raygen_units_set_aside": 0.0,
    }
    deadline = time.monotonic() + 60
    found: dict[str, float] = {}
    while found != expected and time.monotonic() < deadline:
        time.sleep(0.5)
        with urllib.request.urlopen(url, timeout=10) as reply:
            lines = [line for line in reply.read().decode().splitlines() if f'run="{out}"' in line]
        found = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}
        found = {name: value for name, value in found.items() if name in expected}
    assert found == expected


@pytest.mark.usefixtures("wide_cluster")
def test_a_farm_that_is_stopped_leaves_no_actor_and_gives_back_what_it_held(lenet_file: Path, tmp_path: Path) -> None:
    import ray

    class StoppedError(BaseException):
        pass

    def stop(report: FarmReport) -> None:
        if report.running:
            raise StoppedError

    with pytest.raises(StoppedError):
        stages.sample(config_of(lenet_file, tmp_path / "run", actors=2, max_actors=50, draws=2000), stop)
    wait_until(lambda: ray.available_resources().get("CPU") == 4)


def test_a_command_stopped_by_its_scheduler_ends_its_actors_too(
    launcher: Any, lenet_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ("--nodes", "conv1:0-19", "--draws", "60", "--chains", "2", "--batch", "2", "--actors", "2")
    process = launcher.raygen("sample", "--out", out, "--weights", lenet_file, *options)
    wait_until(lambda: process.poll() is not None or any(out.glob("samples/conv1/*.parquet")))
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    _, err = process.communicate(timeout=60)
    print(f"left after {time.monotonic() - start:.1f} s")
    assert process.returncode == 143, err
    assert err.strip() == "raygen: stopped; what is finished is kept, and the same command continues from there"
    wait_until(lambda: not [pid for pid in launcher.alive() if pid != os.getpid()])
