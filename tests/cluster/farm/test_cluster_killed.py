"""Commands killed without warning, with all processes of theirs, and run again: the same results, bit for bit."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raygen.networks import read_description
from raygen.store import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TRAINING = {"limit": 300, "epochs": 4, "generative_epochs": 3, "workers": 2, "seed": 4}
SAMPLING = {
    "nodes": "conv1:0-11",
    "chains": 2,
    "draws": 50,
    "thin": 4,
    "warm_up": 20,
    "steps": 4,
    "batch": 2,
    "actors": 2,
}


def write_config(folder: Path, **values: object) -> Path:
    # JSON is YAML.
    file = folder / "config.yaml"
    file.write_text(json.dumps(values))
    return file


def kill_when(process: "subprocess.Popen[str]", happened: Callable[[], bool], end: Callable[[], None]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    end()
    process.communicate()


def tables(out: Path) -> dict[str, Any]:
    run = Run.open(str(out))
    return {unit.name: run.samples(unit).to_pydict() for unit in run.plan}


def check(done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def undisturbed(launcher_at: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    launcher = launcher_at(folder)
    config = write_config(folder, out=str(folder / "run"), **TRAINING, **SAMPLING)
    check(launcher.run(sys.executable, "-m", "raygen", "pipeline", "--config", config))
    return folder / "run"


def test_a_training_killed_after_its_first_epoch_ends_with_the_same_weights(
    launcher: Any, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = write_config(tmp_path, out=str(out), **TRAINING)
    process = launcher.raygen("pretrain", "--config", config)
    kill_when(process, (out / "metrics.jsonl").exists, launcher.end)
    assert not (out / "network.safetensors").exists()
    check(launcher.run(sys.executable, "-m", "raygen", "pretrain", "--config", config))
    expected, found = undisturbed / "pretrain" / "network.safetensors", out / "network.safetensors"
    tensors, others = load_file(expected), load_file(found)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(others[name], tensor) for name, tensor in tensors.items())
    assert read_description(found) == read_description(expected)
    epochs = [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4]


def test_a_pipeline_killed_while_it_samples_ends_with_the_same_samples(
    launcher: Any, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed / "pretrain", out / "pretrain")
    config = write_config(tmp_path, out=str(out), **TRAINING, **SAMPLING)
    process = launcher.raygen("pipeline", "--config", config)
    kill_when(process, lambda: any(out.glob("samples/conv1/*.parquet")), launcher.end)
    made = {path.name: path.read_bytes() for path in out.glob("samples/conv1/*.parquet")}
    assert 0 < len(made) < 12
    again = launcher.run(sys.executable, "-m", "raygen", "pipeline", "--config", config)
    check(again)
    assert f"{len(made)} of 12 units were there already" in again.stdout
    assert tables(out) == tables(undisturbed)
    assert (out / "gallery" / "index.html").exists()
    assert all((out / "samples" / "conv1" / name).read_bytes() == data for name, data in made.items())
