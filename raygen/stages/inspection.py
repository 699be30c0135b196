"""A run or a training on storage: how far it is, and whether its files are whole.

The rooms are imported as modules, whose names cost an import when they are used: ``status`` needs few of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from raygen import runs, store, training
from raygen.storage import Location, below

if TYPE_CHECKING:
    from raygen.runs import RunStatus, TrainingStatus
    from raygen.store import Findings
    from raygen.training import TrainingFolder


def status(folder: str) -> tuple[RunStatus | TrainingStatus, ...]:
    """Return how far the run or the training in ``folder`` is; of a pipeline both.

    Raises:
        StoreError: if there is neither.
    """
    found: list[RunStatus | TrainingStatus] = [runs.training_status(each) for each in _trainings(folder)]
    if store.Run.is_begun(folder) or not found:
        found.append(runs.read_status(store.Run.open(folder)))
    return tuple(found)


def verify(
    folder: str, *, mend: bool = False, on_unit: Callable[[int, int], None] | None = None
) -> tuple[tuple[str, Findings], ...]:
    """Read every file of the run or the training in ``folder``, of a pipeline those of both; return what was found.

    Args:
        folder: path or URI.
        mend: whether to remove what is torn and left over, so that the same command makes it again.
        on_unit: called with the number of units read so far, and with that of all units.

    Returns:
        Findings, each with its folder's path, or its URI without what is secret.

    Raises:
        StoreError: if there is neither, or files are to be removed and another process works in the folder.
    """
    found = []
    for trained in _trainings(folder):
        text = trained.location.text
        with training.TrainingFolder.lock(text) if mend else nullcontext():
            findings = runs.verify_training(trained)
            found.append((trained.location.title, findings))
            if mend:
                runs.mend_training(trained, findings)
    if store.Run.is_begun(folder) or not found:
        run = store.Run.open(folder)
        with store.Run.lock(folder) if mend else nullcontext():
            findings = store.verify_run(run, on_unit)
            found.append((run.location.title, findings))
            if mend:
                store.mend_run(run.location, findings)
    return tuple(found)


def _trainings(folder: str) -> list[TrainingFolder]:
    """Return the training in ``folder``, or the one that a pipeline keeps below it, if there is one."""
    for text in (folder, below(folder, "pretrain")):
        if Location.of(text).exists("pretrain.json"):
            return [training.TrainingFolder.open(text)]
    return []
