"""Training workers that die, and what of it reaches the user: on a real Ray Train of two CPUs."""

import contextlib
import json
import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pretrain_networks import search_path
from safetensors.torch import load_file

from raygen import stages
from raygen.config import PretrainConfig
from raygen.errors import InputError, RaygenError, SettingsError
from raygen.training import EpochReport

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # What Ray Data's own settings say of themselves as soon as they are made; and it leaves its log files open.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
    pytest.mark.filterwarnings("ignore:Exception ignored in.*ray-data:pytest.PytestUnraisableExceptionWarning"),
]

NETWORK = {"network": "pretrain_networks:slow_lenet", "channels": 1, "input_size": 28, "mean": [0.0], "std": [1.0]}
NETWORK |= {"arguments": {"pause": 0.3}}
LENET = {"network": "lenet", "arguments": {}}


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """Let workers import the networks beside this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", search_path())
        yield


def config_of(out: Path, **changes: object) -> PretrainConfig:
    values = {"out": str(out), "limit": 200, "epochs": 6, "generative_epochs": 3, "workers": 2, "seed": 4, **NETWORK}
    return PretrainConfig.parse(values | changes, where="test")


def ignore(_: EpochReport) -> None:
    pass


@pytest.fixture(scope="module")
def undisturbed(importable: None, cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    del importable, cluster
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    stages.pretrain(config_of(out), ignore)
    return out


def worker_pids() -> list[int]:
    """The training workers of this test's Ray, whose folder is no other Ray's."""
    mark, found = f"RAY_TMPDIR={os.environ['RAY_TMPDIR']}".encode(), []
    for folder in Path("/proc").iterdir():
        # One that has ended, or is another user's, cannot be read.
        with contextlib.suppress(OSError):
            trains = folder.name.isdigit() and b"TrainWorker" in (folder / "cmdline").read_bytes()
            if trains and mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def losses(out: Path) -> list[tuple[int, float]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [(report["epoch"], report["loss"]) for report in map(json.loads, lines)]


def same_outcome(out: Path, undisturbed: Path) -> None:
    assert (out / "network.safetensors").read_bytes() == (undisturbed / "network.safetensors").read_bytes()
    assert losses(out) == losses(undisturbed)


def test_a_worker_killed_within_an_epoch_costs_that_epoch_and_changes_nothing(
    undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, killed, reports = tmp_path / "run", [], []

    def kill() -> None:
        killed.append((worker_pids(), sorted(path.name for path in (out / "states").iterdir())))
        os.kill(killed[-1][0][-1], signal.SIGKILL)

    def on_epoch(report: EpochReport) -> None:
        reports.append(report.epoch)
        # In the middle of the next: an epoch takes at least 1.2 s. More kills than tries, but an epoch between.
        if report.epoch < 5:
            threading.Timer(0.3, kill).start()

    with caplog.at_level(logging.WARNING):
        stages.pretrain(config_of(out), on_epoch)
    assert len(killed) == 4
    assert all(len(pids) == 2 for pids, _ in killed)
    assert reports == [1, 2, 3, 4, 5, 6]
    warnings = [record.getMessage() for record in caplog.records if "continues after epoch" in record.getMessage()]
    assert len(warnings) == 4
    assert len({pid for pids, _ in killed for pid in pids}) == 8, "each kill met other processes than the ones before"
    same_outcome(out, undisturbed)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in undisturbed.iterdir())


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_training_goes_on_with_another_number_of_workers_and_ends_the_same_to_round_off(
    undisturbed: Path, tmp_path: Path, first: int, then: int
) -> None:
    out, seen = tmp_path / "run", []

    def stop(_: EpochReport) -> None:
        seen.append(len(worker_pids()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.pretrain(config_of(out, workers=first), stop)
    assert worker_pids() == [], "who stops a training stops its workers"
    assert not (out / "network.safetensors").exists()
    stages.pretrain(config_of(out, workers=then), lambda _: seen.append(len(worker_pids())))
    assert seen[0] == first
    assert max(seen[1:]) == then
    expected, found = (load_file(folder / "network.safetensors") for folder in (undisturbed, out))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses(out), losses(undisturbed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "says", "cause"),
    [
        ("deadly_lenet", "4 times in a row the workers failed before an epoch was done", "died|SIGKILL"),
        ("greedy_lenet", "its forward fails", "can't allocate memory"),  # it would again: no second try
    ],
)
@pytest.mark.usefixtures("cluster")
def test_workers_that_die_each_time_end_training_in_one_line_with_the_cause(
    tmp_path: Path, network: str, says: str, cause: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(RaygenError, match=says) as caught:
        stages.pretrain(config_of(out, network=f"pretrain_networks:{network}", arguments={}, workers=1), ignore)
    message = str(caught.value)
    assert "\n" not in message
    assert any(part in message for part in cause.split("|")), message
    assert sorted(path.name for path in out.iterdir()) == ["pretrain.json"]


@pytest.mark.usefixtures("cluster")
def test_an_input_that_turns_out_wrong_ends_training_at_once_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(SettingsError, match="learning_rate: the loss is nan in epoch"),
    ):
        stages.pretrain(config_of(tmp_path / "run", learning_rate=1e30, **LENET), ignore)
    assert not [record for record in caplog.records if "continues" in record.getMessage()]


@pytest.mark.usefixtures("cluster")
def test_what_the_cluster_cannot_give_is_said_at_once(tmp_path: Path) -> None:
    def refused(**changes: object) -> str:
        with pytest.raises(InputError) as caught:
            stages.pretrain(config_of(tmp_path / "run", **changes), ignore)
        return str(caught.value)

    assert refused(workers=3).startswith("pretrain: workers = 3, but the cluster has room for 2 of 1 CPU; ask for")
    assert refused(workers=3, max_workers=8).startswith("pretrain: workers = 3, but the cluster has room for 2 of")
    assert refused(workers=2, max_workers=1).startswith("max_workers: 1 is under the 2 of workers; give")
    assert refused(workers=None, threads=3).startswith("pretrain: workers = 1, but the cluster has room for 0 of 3")
    assert refused(gpus=1, workers=1).startswith("gpus: no machine of the cluster has a GPU; give --gpus 0")
    assert refused(gpus=0.5).startswith("gpus: 0.5 GPUs for a training worker, which takes one; give 1")
    assert refused(gpus=2).startswith("gpus: 2 GPUs for a training worker")


def write_pictures(root: Path) -> Path:
    draw = np.random.default_rng(3)
    for number in range(60):
        out = root / ("train" if number < 48 else "test") / "ab"[number % 2]
        out.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 128, (28, 28), dtype=np.uint8) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(out / f"{number:02}.png")
    torn = root / "train" / "a" / "10.png"
    torn.write_bytes(torn.read_bytes()[:100])
    return root


@pytest.mark.usefixtures("cluster")
def test_pictures_stream_through_ray_and_a_skipped_one_is_told_to_the_user(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_pictures(tmp_path / "pictures")
    # A path from where the command is given: it must mean the same to the workers.
    monkeypatch.chdir(tmp_path)
    asked = {"data": "folder", "data_root": root.name, "stream": True, "network": "lenet", "arguments": {"classes": 2}}
    asked |= {"epochs": 2, "generative_epochs": 1, "batch_size": 16, "limit": None}
    with caplog.at_level(logging.WARNING):
        # Both CPUs are held by workers in the second: they read for themselves.
        outcomes = []
        for workers in (1, 2):
            stages.pretrain(config_of(tmp_path / f"run{workers}", workers=workers, **asked), ignore)
            warnings = [record.getMessage() for record in caplog.records if "10.png" in record.getMessage()]
            assert warnings
            assert all("skipped" in text for text in warnings)
            caplog.clear()
            outcomes.append(tmp_path / f"run{workers}" / "network.safetensors")
        stages.pretrain(config_of(tmp_path / "here", local=True, **asked), ignore)
    alone = (tmp_path / "here" / "network.safetensors").read_bytes()
    assert outcomes[0].read_bytes() == alone, "what streams through Ray is what streams without it"
    expected, found = load_file(tmp_path / "here" / "network.safetensors"), load_file(outcomes[1])
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    shutil.rmtree(root)
