"""Machines that come, go, and say that they will go, while a network is trained on them: several Rays on loopback."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_networks import search_path
from ray_rooms import many_machines
from safetensors.torch import load_file

from raygen.cluster import Workers, pretrain
from raygen.data import DataSettings
from raygen.errors import SettingsError
from raygen.networks import NetworkSettings
from raygen.training import EpochReport, TrainingFolder, TrainingSettings, TrainingTask, run_task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
    # The processes of a test cluster are not waited for when it ends.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]


@pytest.fixture
def machines(ray_home: Path) -> Iterator[Any]:
    # A machine that has just died is counted on for as long.
    patience = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}
    with many_machines(ray_home, RAY_AUTH_MODE="disabled", PYTHONPATH=search_path(), **patience) as cluster:
        yield cluster


def task_at(out: Path, epochs: int, pause: float = 0.5) -> TrainingTask:
    network = NetworkSettings(
        network="pretrain_networks:slow_smooth",
        arguments={"pause": pause},
        channels=1,
        input_size=28,
        mean=(0.0,),
        std=(1.0,),
    )
    settings = TrainingSettings(epochs=epochs, generative_epochs=epochs // 2)
    folder = TrainingFolder.claim(str(out), {}, about={})
    return TrainingTask(folder, network, DataSettings(limit=200), settings, seed=4, threads=1, gpu=False)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "network.safetensors")


def busy_machines() -> set[str]:
    """The machines whose CPU a worker holds."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    alive = {node["NodeID"]: node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]}
    return {name for name, cpus in alive.items() if cpus and not free.get(name, {}).get("CPU", 0)}


def test_training_grows_and_shrinks_with_the_cluster_and_ends_the_same_to_round_off(
    machines: Any, tmp_path: Path
) -> None:
    machines.add_node(num_cpus=1)
    second: list[Any] = []
    sizes: list[int] = []

    def on_epoch(_: EpochReport) -> None:
        sizes.append(len(busy_machines()))
        if len(sizes) == 1:
            second.append(machines.add_node(num_cpus=1))
        elif sizes[-1] == 2 and second:
            machines.remove_node(second.pop(), allow_graceful=False)

    pretrain(task_at(tmp_path / "run", 20), workers=Workers(1, 2), on_epoch=on_epoch, resize_seconds=1)
    order = [size for number, size in enumerate(sizes) if size and size != (sizes[number - 1] if number else 0)]
    assert order[:3] == [1, 2, 1], sizes
    run_task(task_at(tmp_path / "alone", 20, pause=0.0), lambda _: None)
    expected, found = weights(tmp_path / "alone"), weights(tmp_path / "run")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)


def test_workers_leave_a_machine_that_is_about_to_go_after_their_epoch_and_lose_nothing(
    machines: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        machines.add_node(num_cpus=1)
    at: list[set[str]] = []
    seen: list[int] = []
    begun = time.monotonic()

    def on_epoch(report: EpochReport) -> None:
        seen.append(report.epoch)
        at.append(busy_machines())
        if len(at) == 1:
            drain(machines, *at[0], seconds=500)

    with caplog.at_level(logging.WARNING, logger="raygen"):
        pretrain(task_at(tmp_path / "run", 12), workers=Workers(1, 1), on_epoch=on_epoch)
    assert time.monotonic() - begun < 500, "the machine was there to the end of the training"
    assert seen == list(range(1, 13))
    assert set().union(*at) > at[0], "the workers went to the other machine"
    assert not caplog.records, "a machine's leave is no failure"
    run_task(task_at(tmp_path / "alone", 12, pause=0.0), lambda _: None)
    expected, found = weights(tmp_path / "alone"), weights(tmp_path / "run")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def drain(machines: Any, machine: str, *, seconds: int) -> None:
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + seconds) * 1000)
    accepted, _ = GcsClient(address=machines.address).drain_node(machine, reason, "spot", deadline)
    assert accepted


def test_halves_of_two_machines_make_no_worker(machines: Any, tmp_path: Path) -> None:
    from raygen.cluster import training_workers

    for _ in range(2):
        machines.add_node(num_cpus=1)
    task = task_at(tmp_path / "run", 1)
    assert training_workers(task, None, None) == Workers(2, 2)
    assert training_workers(task, None, 1) == Workers(1, 1)
    assert training_workers(task, 1, 9) == Workers(1, 9)
    wide = TrainingTask(**{**vars(task), "threads": 2})
    with pytest.raises(SettingsError, match="workers = 1, but the cluster has room for 0 of 2 CPUs"):
        training_workers(wide, 1, None)
