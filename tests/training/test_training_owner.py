"""States, metrics and the trained network are those of their training, or they are not taken."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from older_runs import unseal_request

from raygen.config import PretrainConfig
from raygen.errors import StoreError
from raygen.runs import verify_training
from raygen.stages import pretrain
from raygen.training import TrainingFolder, final_evaluation

STATE, METRICS, NETWORK = "states/epoch-00002.pt", "metrics.jsonl", "network.safetensors"


def train(folder: Path, seed: int) -> TrainingFolder:
    config = PretrainConfig(out=str(folder), local=True, data="digits", limit=64, epochs=2, batch_size=32, seed=seed)
    return pretrain(config, lambda report: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    for seed in (1, 2):
        assert verify_training(train(root / str(seed), seed)).is_whole
    return root


@pytest.fixture
def both(trained: Path, tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(trained, tmp_path / "both")
    return tmp_path / "both/1", tmp_path / "both/2"


def test_a_state_of_another_training_is_passed_over(both: tuple[Path, Path]) -> None:
    mine, other = both
    shutil.copy(other / STATE, mine / STATE)
    folder = TrainingFolder.open(str(mine))
    newest = folder.newest_state()
    assert newest is not None and newest["epoch"] == 1 and newest["seed"] == 1
    assert list(verify_training(folder).torn) == [STATE]


def test_a_state_whose_seal_was_cut_off_or_is_an_older_ones_is_passed_over(both: tuple[Path, Path]) -> None:
    mine, _ = both
    state = (mine / STATE).read_bytes()[:-76]
    for changed in (state, state + b"raygen.seal " + hashlib.sha256(state).hexdigest().encode()):
        (mine / STATE).write_bytes(changed)
        newest = TrainingFolder.open(str(mine)).newest_state()
        assert newest is not None and newest["epoch"] == 1


def test_a_network_of_another_training_is_not_called_the_trained_one(both: tuple[Path, Path]) -> None:
    mine, other = both
    shutil.copy(other / NETWORK, mine / NETWORK)
    with pytest.raises(StoreError, match="safetensors is damaged, or that of another training; remove that file"):
        train(mine, 1)
    assert list(verify_training(TrainingFolder.open(str(mine))).torn) == [NETWORK]


def test_verify_finds_each_bit_that_changes_in_the_trained_network(both: tuple[Path, Path]) -> None:
    mine, _ = both
    whole = (mine / NETWORK).read_bytes()
    for at in range(9, len(whole), len(whole) // 12):
        (mine / NETWORK).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert list(verify_training(TrainingFolder.open(str(mine))).torn) == [NETWORK]


def test_a_line_of_metrics_that_was_changed_or_is_of_another_training_is_not_believed(both: tuple[Path, Path]) -> None:
    mine, other = both
    lines = (mine / METRICS).read_text().splitlines()
    changed = json.loads(lines[1])
    changed["test"]["error"] = 0.0
    unsealed = {name: value for name, value in json.loads(lines[1]).items() if name != "seal"}
    for line in (json.dumps(changed), json.dumps(unsealed), (other / METRICS).read_text().splitlines()[1], "[]", "7"):
        (mine / METRICS).write_text(f"{lines[0]}\n{line}\n")
        folder = TrainingFolder.open(str(mine))
        assert [report.epoch for report in folder.history()] == [1]
        assert verify_training(folder).torn == {METRICS: "line 2 cannot be read"}


def test_a_training_of_before_there_were_marks_is_read(both: tuple[Path, Path]) -> None:
    mine, _ = both
    whole = TrainingFolder.open(str(mine))
    history, evaluation, before = whole.history(), final_evaluation(whole), whole.state_after(2)
    assert evaluation is not None
    unseal_request(mine / "pretrain.json")
    state = (mine / STATE).read_bytes()[:-76]
    (mine / STATE).write_bytes(state + b"raygen.seal " + hashlib.sha256(state).hexdigest().encode())
    lines = [json.loads(line) for line in (mine / METRICS).read_text().splitlines()]
    text = "".join(json.dumps({name: line[name] for name in line if name != "seal"}) + "\n" for line in lines)
    (mine / METRICS).write_text(text)
    folder = TrainingFolder.open(str(mine))
    assert verify_training(folder).is_whole
    assert folder.history() == history and final_evaluation(folder) == evaluation
    newest = folder.newest_state()
    assert newest is not None
    assert torch.equal(newest["weights"]["conv1.bias"], before["weights"]["conv1.bias"])
