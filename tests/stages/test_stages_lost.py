"""What is removed while a run goes on is noticed before the run is called done."""

import shutil

import pytest

from raygen.config import PretrainConfig, SampleConfig
from raygen.errors import UnfinishedError
from raygen.stages import pretrain, sample, verify
from raygen.store import Run
from raygen.training import TrainingFolder


def config(folder):
    return SampleConfig(
        out=str(folder), local=True, weights="random", nodes="conv1:0-3 ip2:0-1", batch=4, chains=2, draws=1,
        warm_up=2, steps=2,
    )  # fmt: skip


def files(folder):
    return {path.name: path.read_bytes() for path in (folder / "samples").rglob("*.parquet")}


def removing(path, after):
    """Remove ``path`` once so many units are done."""

    def on_progress(report):
        if report.made.units == after and path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return on_progress


@pytest.mark.parametrize("after", [1, 2, 3])
def test_samples_that_are_gone_are_named_and_made_again_by_the_same_command(tmp_path, after):
    run, whole = tmp_path / "run", tmp_path / "whole"
    sample(config(whole), lambda report: None)
    with pytest.raises(
        UnfinishedError, match=rf"run: {after} of 3 units were committed and are gone, conv1-00000"
    ) as lost:
        sample(config(run), removing(run / "samples", after))
    assert lost.value.exit_status == 3
    sample(config(run), lambda report: None)
    assert files(run) == files(whole)
    assert len(Run.open(str(run)).plan) == 3


@pytest.mark.parametrize("name", ["run.json", "plan.parquet"])
def test_a_run_that_has_lost_what_it_is_is_not_called_done(tmp_path, name):
    run = tmp_path / "run"
    with pytest.raises(UnfinishedError, match="run: the run has lost what says what it is"):
        sample(config(run), removing(run / name, 1))
    assert len(files(run)) == 3  # nothing that was made is lost


def test_a_trained_network_that_is_gone_is_not_called_done(tmp_path, monkeypatch):
    finish = TrainingFolder.finish

    def and_lose(self, module, description):
        finish(self, module, description)
        (tmp_path / "run" / "network.safetensors").unlink()

    settings = PretrainConfig(out=str(tmp_path / "run"), local=True, data="digits", limit=40, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingFolder, "finish", and_lose)
        with pytest.raises(UnfinishedError, match="the trained network was written and is gone"):
            pretrain(settings, lambda report: None)
    assert pretrain(settings, lambda report: None).finished


def test_samples_that_have_lost_a_part_are_noticed(tmp_path):
    run, cut = tmp_path / "run", []

    def on_progress(report):
        if report.made.units == 1 and not cut:
            cut.append(True)
            (path,) = (run / "samples").rglob("*.parquet")
            path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(UnfinishedError, match=r"run: the samples hold [\d,]+ bytes, written were [\d,]+; raygen"):
        sample(config(run), on_progress)


def test_a_file_that_was_empty_before_is_not_called_done(tmp_path):
    run = tmp_path / "run"
    sample(config(run), lambda report: None)
    whole = files(run)
    (run / "samples/conv1/conv1-00001.parquet").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(UnfinishedError, match="run: 1 of 3 units have empty files, conv1-00001; raygen verify"):
            sample(config(run), lambda report: None)
    verify(str(run), mend=True)
    sample(config(run), lambda report: None)
    assert files(run) == whole
