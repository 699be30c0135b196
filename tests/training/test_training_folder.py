"""A training's folder: what is torn, and what a run makes of it."""

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from older_runs import unseal_request
from pyarrow import fs

from raygen.data import DataSettings
from raygen.errors import StoreError
from raygen.networks import NetworkSettings, load_network
from raygen.storage import ArrowBackend, Location
from raygen.training import EpochReport, TrainingFolder, TrainingSettings, TrainingTask, run_task

SETTINGS = TrainingSettings(epochs=3, generative_epochs=2, batch_size=32)


def claim(root: object) -> TrainingFolder:
    return TrainingFolder.claim(str(root), {"asked": 1}, about={})


def run(root: object) -> list[EpochReport]:
    """Train LeNet on a few digits, in this process."""
    reports: list[EpochReport] = []
    task = TrainingTask(claim(root), NetworkSettings(), DataSettings(limit=96), SETTINGS, seed=5, threads=1, gpu=False)
    run_task(task, reports.append)
    return reports


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    assert [report.epoch for report in run(root)] == [1, 2, 3]
    return root


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(torch.randint(256, (path.stat().st_size,), dtype=torch.uint8).numpy().tobytes())


def make_hole(path: Path) -> None:
    # What a machine leaves that lost its power: the length is there, and the ends, but a page was never written.
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4 // 4096 * 4096)
        file.write(bytes(4096))


def rename_over(path: Path) -> None:
    shutil.copy(path.with_name("epoch-00002.pt"), path)


FAULTS = [truncate, empty, fill_with_garbage, make_hole, rename_over, Path.unlink]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_newest_state_that_is_not_whole_costs_one_epoch_and_changes_nothing(
    undisturbed: Path, tmp_path: Path, fault: Callable[[Path], None]
) -> None:
    root = tmp_path / "run"
    shutil.copytree(undisturbed, root)
    (root / "network.safetensors").unlink()
    fault(root / "states" / "epoch-00003.pt")
    state = claim(root).newest_state()
    assert state is not None
    assert state["epoch"] == 2
    assert [report.epoch for report in run(root)] == [3]
    same_outcome(root, undisturbed)


def test_a_state_under_another_epochs_name_is_none_of_that_epoch(undisturbed: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(undisturbed, root)
    rename_over(root / "states" / "epoch-00003.pt")
    assert claim(root).state_after(2)["epoch"] == 2
    for epoch in (1, 3):
        with pytest.raises(StoreError, match="epoch"):
            claim(root).state_after(epoch)


def same_outcome(root: Path, undisturbed: Path) -> None:
    assert (root / "network.safetensors").read_bytes() == (undisturbed / "network.safetensors").read_bytes()
    assert losses(root) == losses(undisturbed)
    assert sorted(path.name for path in (root / "states").iterdir()) == ["epoch-00002.pt", "epoch-00003.pt"]


def losses(root: Path) -> list[tuple[int, float]]:
    lines = (root / "metrics.jsonl").read_text().splitlines()
    return [(report["epoch"], report["loss"]) for report in map(json.loads, lines)]


def test_a_run_of_which_no_state_is_whole_begins_anew_and_keeps_what_it_then_does(
    undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    shutil.copytree(undisturbed, root)
    (root / "network.safetensors").unlink()
    for path in (root / "states").iterdir():
        truncate(path)
    folder = claim(root)
    assert folder.newest_state() is None
    state = torch.load(undisturbed / "states" / "epoch-00002.pt", weights_only=True)
    folder.save_state({**state, "epoch": 1, "history": state["history"][:1]})
    assert [path.name for path in (root / "states").iterdir()] == ["epoch-00001.pt"]
    assert folder.epochs == 1
    (root / "states" / "epoch-00001.pt").unlink()
    assert [report.epoch for report in run(root)] == [1, 2, 3]
    same_outcome(root, undisturbed)


class FailingDisk(LocalFileSystem):
    def _open(self, path: str, *_: object, **__: object) -> object:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)


def test_storage_that_does_not_answer_sends_no_run_back(undisturbed: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(undisturbed, root)
    disk = ArrowBackend(fs.PyFileSystem(fs.FSSpecHandler(FailingDisk())))
    folder = TrainingFolder(Location(str(root), disk, str(root)))
    with pytest.raises(StoreError, match=r"epoch-00003.pt cannot be read .*Input/output error"):
        folder.newest_state()


def test_a_run_stopped_before_its_last_metrics_ends_with_them(undisturbed: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(undisturbed, root)
    (root / "network.safetensors").unlink()
    lines = (root / "metrics.jsonl").read_text().splitlines()
    (root / "metrics.jsonl").write_text("\n".join(lines[:2]) + "\n")
    assert run(root) == []
    same_outcome(root, undisturbed)


def test_metrics_are_read_up_to_what_is_torn(undisturbed: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(undisturbed, root)
    whole = (root / "metrics.jsonl").read_bytes()
    (root / "metrics.jsonl").write_bytes(whole[:-20])
    assert [report.epoch for report in claim(root).history()] == [1, 2]
    (root / "metrics.jsonl").write_bytes(b"\xff\x00{}\n")
    assert claim(root).history() == ()


def test_scraps_of_a_killed_writer_are_no_states_and_are_cleared_away(undisturbed: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(undisturbed, root)
    (root / "network.safetensors").unlink()
    (root / "states" / "epoch-00003.pt").rename(root / "states" / "epoch-00003.pt.0f0f0f0f.tmp")
    assert claim(root).epochs == 2
    assert [report.epoch for report in run(root)] == [3]
    same_outcome(root, undisturbed)


def test_a_run_goes_to_a_uri_as_to_a_path_and_goes_on_there(undisturbed: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    uri = root.as_uri()
    assert uri.startswith("file://")
    assert [report.epoch for report in run(uri)] == [1, 2, 3]
    same_outcome(root, undisturbed)
    (root / "network.safetensors").unlink()
    truncate(root / "states" / "epoch-00003.pt")
    assert [report.epoch for report in run(uri)] == [3]
    same_outcome(root, undisturbed)
    assert claim(uri).finished
    assert claim(uri).network == f"{uri}/network.safetensors"


def test_the_same_weights_are_the_same_file(
    undisturbed: Path, tmp_path: Path, lenet_description: dict[str, object]
) -> None:
    network = load_network(NetworkSettings(weights=str(undisturbed / "network.safetensors")))
    folder = claim(tmp_path / "run")
    files = set()
    for _ in range(8):
        folder.finish(network.module, {**lenet_description, "more": [None, "\N{SNOWMAN}"]})
        files.add((tmp_path / "run" / "network.safetensors").read_bytes())
    assert len(files) == 1
    again = load_network(NetworkSettings(weights=str(tmp_path / "run" / "network.safetensors")))
    assert again.weights_hash == network.weights_hash


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    claim(tmp_path / "run").check_seen()
    elsewhere = TrainingFolder(Location.of(str(tmp_path / "elsewhere")))
    with pytest.raises(StoreError, match=r"a worker on another machine does not see this folder; give a URI"):
        elsewhere.check_seen()


@pytest.mark.parametrize("below", ["file/run", "file"])
def test_a_folder_that_cannot_be_written_is_refused_and_nothing_is_lost(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(StoreError, match=r"file(/run)?: "):
        claim(tmp_path / below)
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(StoreError, match=r"/proc/raygen: .*give a folder that can be written"):
        claim("/proc/raygen")


def test_a_state_in_which_a_bit_has_changed_is_passed_over_and_an_unsealed_one_is_read(
    undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    folder, path = claim(tmp_path / "run"), tmp_path / "run/states/epoch-00003.pt"
    whole = path.read_bytes()
    for at in range(7, len(whole) - 76, len(whole) // 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        newest = folder.newest_state()
        assert newest is not None and newest["epoch"] == 2
    unseal_request(tmp_path / "run/pretrain.json")  # as of an older training, which may hold unsealed ones
    folder = claim(tmp_path / "run")
    for unsealed in (whole[:-76], whole):
        path.write_bytes(unsealed)
        newest = folder.newest_state()
        assert newest is not None and newest["epoch"] == 3
        assert torch.load(path, weights_only=True)["epoch"] == 3, "other readers of such files pass over the seal"


def test_an_unsealed_state_that_would_take_for_ever_to_rebuild_is_passed_over(
    undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    unseal_request(tmp_path / "run/pretrain.json")
    with zipfile.ZipFile(tmp_path / "run/states/epoch-00003.pt", "w") as file:
        # The hash of a tuple of two tuples, each of them the same, and so on.
        file.writestr("epoch-00003/data.pkl", b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"Ns.")
    newest = claim(tmp_path / "run").newest_state()
    assert newest is not None and newest["epoch"] == 2
