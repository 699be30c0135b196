"""What runs in every worker of a training: the plain loop, tied to its driver by Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.train

from raygen.cluster.train.streaming import spare_cpus, through_ray
from raygen.data import DataSettings, ImageSource, open_data
from raygen.training import EpochReport, Opener, TrainingTask, run_task

_PACKAGE = "raygen"


class _MachineLeaves(Exception):  # noqa: N818 (no error)
    """A machine of the workers is about to go."""


def work(config: dict[str, Any]) -> None:
    """Train, as one of many workers; return early where a machine of theirs is about to go.

    Args:
        config: "task" and "inbox", see ``pretrain``.
    """
    task: TrainingTask = config["task"]
    with tied_to(config["inbox"]):
        task.folder.check_seen()
        try:
            run_task(task, lambda report: _after_epoch(task, report), opener=_opener(task))
        except _MachineLeaves:
            return


def _after_epoch(task: TrainingTask, report: EpochReport) -> None:
    # No ray.train.report: Ray's controller takes one in two seconds, which short epochs would have to wait for, and
    # what it would carry is in the run's folder. The question waits for all workers: all leave after the same epoch.
    if report.epoch < task.settings.epochs and ray.train.get_preemption_info() is not None:
        raise _MachineLeaves


def _opener(task: TrainingTask) -> Opener:
    """Return how a worker opens its images: a stream is read by CPUs that no worker holds, if there are."""
    workers = ray.train.get_context().get_world_size()

    def opened(settings: DataSettings, shape: tuple[int, int, int]) -> tuple[ImageSource, ImageSource]:
        train_set, test_set = open_data(settings, shape, threads=task.threads)
        # More workers than at the start may hold all CPUs: then each reads for itself.
        if spare_cpus(workers, task.threads) < 1:
            return train_set, test_set
        return (
            through_ray(train_set, workers=workers, held=task.threads),
            through_ray(test_set, workers=workers, held=task.threads),
        )

    return opened


@contextmanager
def tied_to(inbox: Any) -> Iterator[None]:
    """Send raygen's warnings to an inbox within the block; end the process when the inbox is gone."""
    threading.Thread(target=_end_with, args=(inbox,), daemon=True).start()
    handler = _Sender(inbox)
    logger = logging.getLogger(_PACKAGE)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _end_with(inbox: Any) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(inbox.last.remote())
    # Workers without a driver would train to the end.
    os._exit(1)


class _Sender(logging.Handler):
    def __init__(self, inbox: Any) -> None:
        super().__init__(logging.WARNING)
        self._inbox = inbox

    def emit(self, record: logging.LogRecord) -> None:
        self._inbox.add.remote(record.name, record.levelno, record.getMessage())
