"""What a training folder tells: of the run while it goes on, and of the trained network from the head of its file."""

from dataclasses import asdict

import pytest
from torch import nn
from training_history import report

from raygen.training import Evaluation, TrainingFolder, final_evaluation
from raygen.training.curves import CURVES
from raygen.training.events import EVENTS

FOUND = Evaluation(0.1, 0.5, 0.05, 0.01, 0.25, float("nan"))
DESCRIPTION = {
    "network": "lenet",
    "arguments": {},
    "input_shape": [1, 28, 28],
    "mean": [0.0],
    "std": [1.0],
    "class_names": [],
}


@pytest.fixture(params=["path", "URI"])
def folder(request, tmp_path):
    root = tmp_path / "run"
    return TrainingFolder.claim(root.as_uri() if request.param == "URI" else str(root), {"network": "lenet"}, about={})


def test_the_evaluation_comes_back_as_it_was_found(folder):
    assert final_evaluation(folder) is None
    folder.finish(nn.Linear(2, 3), {**DESCRIPTION, "test": asdict(FOUND)})
    assert repr(final_evaluation(folder)) == repr(FOUND)  # NaN is not equal to itself


def test_a_network_without_an_evaluation_has_none_to_tell(folder):
    folder.finish(nn.Linear(2, 3), DESCRIPTION)
    assert final_evaluation(folder) is None


@pytest.mark.parametrize("length", [0, 5, 100])
def test_a_torn_network_has_none_to_tell(folder, length):
    folder.finish(nn.Linear(2, 3), {**DESCRIPTION, "test": asdict(FOUND)})
    data = folder.location.read("network.safetensors")
    folder.location.write("network.safetensors", data[:length])
    assert final_evaluation(folder) is None


def test_a_run_shows_itself_after_each_state_and_at_its_end(folder):
    root = folder.location
    for epoch in (1, 2):
        history = [asdict(report(number, seconds=1.0)) for number in range(1, epoch + 1)]
        folder.save_state({"epoch": epoch, "history": history})
        assert len(root.names(EVENTS)) == epoch
        assert root.exists(CURVES) == (epoch == 1)  # so short an epoch draws none but the first
        if epoch == 1:
            root.remove(CURVES)
    folder.finish(nn.Linear(2, 3), DESCRIPTION)
    assert root.exists(CURVES)
    assert len(root.names(EVENTS)) == 2
