"""What a finished training says of its network."""

from __future__ import annotations

import json

from raygen.networks import KEY
from raygen.training.evaluation import Evaluation
from raygen.training.folder import TrainingFolder


def final_evaluation(folder: TrainingFolder) -> Evaluation | None:
    """Return the evaluation of the trained network on the test images, None where there is no such network yet.

    It is read from the head of the network's file, so that no weights come over the wire.
    """
    location = folder.location
    name = folder.network.rpartition("/")[2]
    try:
        with location.filesystem.open_input_file(f"{location.root}/{name}") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return Evaluation(**json.loads(header["__metadata__"][KEY])["test"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
