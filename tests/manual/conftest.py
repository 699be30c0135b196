"""A small run and its training, made once; each page has a copy of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from manual_pages import ROOT
from PIL import Image

from raygen.cli import main

TINY = ("--chains", "2", "--draws", "2", "--thin", "1", "--warm-up", "2", "--steps", "1", "--local")


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader of the README has it: the jobs, a LeNet of one epoch, some samples, a few pictures."""
    folder = tmp_path_factory.mktemp("manual")
    shutil.copytree(ROOT / "jobs", folder / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    for number, name in enumerate(("train/cat", "train/dog", "test/cat", "test/dog", "unlabelled")):
        (folder / "pictures" / name).mkdir(parents=True)
        for picture in range(3):
            Image.new("RGB", (80, 64), (60 * number, 90 * picture, 30)).save(folder / f"pictures/{name}/{picture}.png")
    lenet, samples = folder / "runs" / "lenet", folder / "runs" / "samples"
    assert main(["pretrain", "--epochs", "1", "--local", "--out", str(lenet)]) == 0
    weights = ("--weights", str(lenet / "network.safetensors"))
    assert main(["sample", *weights, "--nodes", "ip2:3 conv1:0", *TINY, "--out", str(samples)]) == 0
    return folder


@pytest.fixture
def sandbox(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Make the working directory a copy of the small run's folder."""

    def make() -> Path:
        folder = tmp_path / "here"
        shutil.copytree(small_run, folder)
        monkeypatch.chdir(folder)
        return folder

    return make
