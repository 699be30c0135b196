"""What is on storage, looked at: how far a run or a training is, and whether its files are whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from raygen.runs import RunStatus, TrainingStatus, mend_training, read_status, training_status, verify_training
from raygen.storage import Location, below
from raygen.store import Findings, Run, mend_run, verify_run
from raygen.training import TrainingFolder


def status(place: str) -> tuple[RunStatus | TrainingStatus, ...]:
    """Return how far the run or the training at ``place`` is; of a pipeline both.

    Raises:
        StoreError: if there is neither.
    """
    found: list[RunStatus | TrainingStatus] = [training_status(folder) for folder in _trainings(place)]
    return (*found, read_status(Run.open(place))) if Run.is_begun(place) or not found else tuple(found)


def verify(
    place: str, *, mend: bool = False, on_unit: Callable[[int, int], None] | None = None
) -> tuple[tuple[str, Findings], ...]:
    """Read every file of the run or the training at ``place``, of a pipeline those of both; return what was found.

    Args:
        place: path or URI of the folder.
        mend: whether to remove what is torn and left over, so that the same command makes it again.
        on_unit: told how many units of how many are read.

    Returns:
        Findings with the folder that they are of.

    Raises:
        StoreError: if there is neither, or it is to be mended and another process works in it.
    """
    found = []
    for folder in _trainings(place):
        text = folder.location.text
        with TrainingFolder.lock(text) if mend else nullcontext():
            findings = verify_training(folder)
            found.append((text, findings))
            if mend:
                mend_training(folder, findings)
    if Run.is_begun(place) or not found:
        run = Run.open(place)
        with Run.lock(place) if mend else nullcontext():
            findings = verify_run(run, on_unit)
            found.append((place, findings))
            if mend:
                mend_run(run.location, findings)
    return tuple(found)


def _trainings(place: str) -> list[TrainingFolder]:
    """Return the training at ``place``, or the one that a pipeline keeps below it, if there is one."""
    for text in (place, below(place, "pretrain")):
        if Location.of(text).exists("pretrain.json"):
            return [TrainingFolder.open(text)]
    return []
