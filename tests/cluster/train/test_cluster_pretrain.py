"""Pretraining on a real Ray Train of two workers."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raygen import stages
from raygen.config import PretrainConfig
from raygen.errors import SettingsError, StoreError
from raygen.networks import NetworkSettings, load_network
from raygen.training import EpochReport

pytestmark = [
    pytest.mark.slow,
    # TorchTrainer.fit makes a ray.data DataContext, which warns of its own defaults.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]


def config_of(out: Path, **changes: object) -> PretrainConfig:
    values = {"out": str(out), "limit": 200, "epochs": 3, "generative_epochs": 2, "workers": 2, "seed": 4}
    return PretrainConfig.parse(values | changes, where="test")


def ignore(_: EpochReport) -> None:
    pass


@pytest.fixture(scope="module")
def trained(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[EpochReport]]]:
    del cluster
    out, reports = tmp_path_factory.mktemp("trained") / "run", []
    stages.pretrain(config_of(out), reports.append)
    yield out, reports


def test_two_workers_train_to_the_end_and_leave_a_network_that_loads(
    trained: tuple[Path, list[EpochReport]],
) -> None:
    out, reports = trained
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert [report.phase for report in reports] == ["generative", "generative", "discriminative"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["loss"] == reports[-1].loss
    network = load_network(NetworkSettings(weights=str(out / "network.safetensors")))
    assert (network.name, network.input_shape) == ("lenet", (1, 28, 28))
    assert network.class_names == tuple("0123456789")
    untrained = load_network(NetworkSettings(weights="random"), seed=4)
    assert network.weights_hash != untrained.weights_hash


def test_a_torn_newest_state_costs_one_epoch_and_changes_nothing(
    trained: tuple[Path, list[EpochReport]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained[0], out)
    (out / "network.safetensors").unlink()
    states = sorted((out / "states").iterdir())
    assert [state.name for state in states] == ["epoch-00002.pt", "epoch-00003.pt"]
    states[1].write_bytes(states[1].read_bytes()[:-1000])
    stages.pretrain(config_of(out), ignore)
    expected, found = (load_file(folder / "network.safetensors") for folder in (trained[0], out))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert (out / "states" / "epoch-00003.pt").stat().st_size == states[1].stat().st_size


@pytest.mark.usefixtures("cluster")
def test_more_workers_than_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"workers = 3, but the cluster has room for 2 of 1 CPU; ask for fewer"):
        stages.pretrain(config_of(tmp_path / "run", workers=3), ignore)
    with pytest.raises(SettingsError, match=r"workers = 2, but the cluster has room for 1 of 2 CPUs;"):
        stages.pretrain(config_of(tmp_path / "run", threads=2), ignore)


def test_a_finished_training_is_left_alone(trained: tuple[Path, list[EpochReport]]) -> None:
    out, _ = trained
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    reports: list[EpochReport] = []
    folder = stages.pretrain(config_of(out), reports.append)
    assert len(folder.history()) == 3
    assert reports == []
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_another_training_in_the_same_folder_is_refused(trained: tuple[Path, list[EpochReport]]) -> None:
    with pytest.raises(StoreError, match=r"there settings.momentum is 0.9, now 0.5"):
        stages.pretrain(config_of(trained[0], momentum=0.5), ignore)
