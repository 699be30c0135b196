"""The farm on a real Ray of two CPUs: the same samples as without it, whatever dies or fails."""

import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from committed import committed

from raygen import stages
from raygen.cli import main
from raygen.config import SampleConfig
from raygen.errors import SettingsError
from raygen.networks import NetworkSettings, load_network, save_checkpoint
from raygen.runs import FarmReport
from raygen.store import Run

SMALL = {
    "nodes": "conv1:0-5",
    "chains": 2,
    "draws": 2,
    "thin": 2,
    "warm_up": 8,
    "steps": 2,
    "batch": 2,
    "seed": 5,
}


def config_of(weights: Path, out: Path, **changes: object) -> SampleConfig:
    return SampleConfig.parse({**SMALL, "weights": str(weights), "out": str(out), **changes}, where="test")


def ignore(_: FarmReport) -> None:
    pass


def tables(out: Path) -> dict[str, object]:
    run = Run.open(str(out))
    return {unit.name: run.samples(unit).to_pydict() for unit in run.plan}


@pytest.fixture(scope="module")
def undisturbed(lenet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, object]]:
    """What this process samples without Ray."""
    made: dict[str, dict[str, object]] = {}

    def sample_with(**changes: object) -> dict[str, object]:
        key = repr(sorted(changes.items()))
        if key not in made:
            out = tmp_path_factory.mktemp("here") / "run"
            stages.sample(config_of(lenet_file, out, local=True, **changes), ignore)
            made[key] = tables(out)
        return made[key]

    return sample_with


@pytest.mark.usefixtures("cluster")
def test_nothing_of_rays_listens_beyond_loopback() -> None:
    import psutil  # of Ray's wheel

    addresses = {
        connection.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses
    assert {address.removeprefix("::ffff:") for address in addresses} <= {"127.0.0.1", "::1"}


@pytest.mark.usefixtures("cluster")
def test_a_farm_writes_bit_for_bit_what_one_process_writes_and_is_capped_at_what_fits(
    lenet_file: Path, tmp_path: Path, undisturbed: Callable[..., dict[str, object]]
) -> None:
    reports: list[FarmReport] = []
    sampled = stages.sample(config_of(lenet_file, tmp_path / "run", actors=50), reports.append)
    assert sampled.report.units == sampled.report.done == 6
    assert max(report.actors for report in reports) == 2
    assert tables(tmp_path / "run") == undisturbed()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_one_actor_writes_the_same(
    lenet_file: Path, tmp_path: Path, undisturbed: Callable[..., dict[str, object]]
) -> None:
    reports: list[FarmReport] = []
    stages.sample(config_of(lenet_file, tmp_path / "run", actors=1), reports.append)
    assert max(report.actors for report in reports) == 1
    assert tables(tmp_path / "run") == undisturbed()


class Killer(threading.Thread):
    """Kills the first actor that is seen at work."""

    def __init__(self) -> None:
        super().__init__()
        self.killed: int | None = None
        self.stop = threading.Event()

    def run(self) -> None:
        import psutil  # of Ray's wheel

        while not self.stop.wait(0.02):
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
                    # Ray names its processes after what they are at.
                    if "ray::SamplingActor.sample" in " ".join(child.cmdline()):
                        child.kill()
                        self.killed = child.pid
                        return


@pytest.mark.usefixtures("cluster")
def test_an_actor_killed_in_the_middle_of_a_unit_costs_nothing_but_time(
    lenet_file: Path, tmp_path: Path, undisturbed: Callable[..., dict[str, object]]
) -> None:
    longer = {"nodes": "conv1:0-1", "draws": 100, "thin": 8}
    killer = Killer()
    killer.start()
    sampled = stages.sample(config_of(lenet_file, tmp_path / "run", **longer), ignore)
    killer.stop.set()
    killer.join()
    assert killer.killed is not None
    assert not sampled.report.set_aside
    expected = undisturbed(**longer)
    assert sampled.report.made.units == len(expected)
    assert tables(tmp_path / "run") == expected


@pytest.fixture(scope="module")
def lenet_with_a_nan(tmp_path_factory: pytest.TempPathFactory, lenet_description: dict[str, object]) -> Path:
    network = load_network(NetworkSettings(network="lenet", weights="random"), seed=3)
    with torch.no_grad():
        network.module.get_parameter("conv1.weight")[3] = float("nan")
    path = tmp_path_factory.mktemp("nan") / "nan.safetensors"
    save_checkpoint(path, network.module, lenet_description)
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_unit_that_two_actors_are_at_counts_once_in_the_reports(lenet_file: Path, tmp_path: Path) -> None:
    seen: list[FarmReport] = []
    # The unit of conv1 is done long before that of ip2, with which its actor then helps.
    config = config_of(lenet_file, tmp_path / "run", nodes="conv1:0 ip2:0", draws=3000, actors=2)
    stages.sample(config, seen.append)
    helped = [report for report in seen if report.done == 1 and report.actors == 2]
    assert len(helped) > 4
    assert all(report.fraction <= 1 and len(report.running) <= report.units - report.done for report in seen)


@pytest.mark.usefixtures("cluster")
def test_a_unit_that_fails_permanently_is_set_aside_and_named_and_the_others_are_committed(
    lenet_with_a_nan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "sample.yaml"
    out = tmp_path / "run"
    config.write_text(json.dumps({**SMALL, "weights": str(lenet_with_a_nan), "out": str(out)}))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["sample", "--config", str(config)]) == 3
    finally:
        signal.signal(signal.SIGTERM, handler)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert re.match(r"raygen: \S+/run: 1 of 6 units were set aside, conv1-00003; conv1-00003: .*score.* nan", said[0])
    run = Run.open(str(out))
    assert committed(run) == {unit.name for unit in run.plan} - {"conv1-00003"}


def test_a_complete_run_is_left_alone_and_starts_no_ray(
    lenet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stages.sample(config_of(lenet_file, out, local=True), ignore)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()}
    # Had it to reach a cluster, it would be refused.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    sampled = stages.sample(config_of(lenet_file, out), ignore)
    assert sampled.report.before == sampled.report.units == 6
    assert sampled.report.made.units == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("cluster")
def test_threads_that_do_not_fit_are_refused_in_one_line(lenet_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^actors: an actor of 64 CPUs and 0 GPUs does not fit .*fewer threads"):
        stages.sample(config_of(lenet_file, tmp_path / "run", threads=64), ignore)
    assert committed(Run.open(str(tmp_path / "run"))) == set()


@pytest.mark.usefixtures("cluster")
def test_gpus_that_are_not_there_are_refused_with_what_to_give_instead() -> None:
    from raygen.cluster import PoolSize, pool_size

    with pytest.raises(SettingsError, match=r"^gpus: no machine .* has 0\.5 GPUs .*--gpus 0 .*--max-actors"):
        pool_size(None, None, threads=1, gpus=0.5)
    assert pool_size(None, 9, threads=1, gpus=0.5) == PoolSize(1, 9), "a cluster that grows may bring them"


@pytest.mark.usefixtures("cluster")
def test_the_pool_is_what_fits_and_grows_only_where_it_is_asked_to() -> None:
    from raygen.cluster import PoolSize, pool_size

    assert pool_size(None, None, threads=1, gpus=0) == PoolSize(2, 2)
    assert pool_size(1, None, threads=1, gpus=0) == PoolSize(1, 1)
    assert pool_size(None, 100, threads=1, gpus=0) == PoolSize(2, 100)
    assert pool_size(5, 100, threads=1, gpus=0) == PoolSize(5, 100)
    with pytest.raises(SettingsError, match=r"^max_actors: 4 is under the 5 of actors"):
        pool_size(5, 4, threads=1, gpus=0)


@pytest.mark.usefixtures("cluster")
def test_what_a_signals_handler_raises_while_ray_waits_is_what_is_raised() -> None:
    import ray

    from raygen.cluster import session

    class StoppedError(BaseException):
        pass

    def stop(*_: object) -> None:
        raise StoppedError

    @ray.remote
    def never() -> None:
        threading.Event().wait()

    before = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    reference = never.remote()
    try:
        timer.start()
        with pytest.raises(StoppedError), session():
            while True:
                ray.wait([reference], timeout=0.5)
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.cancel(reference, force=True)
