"""What runs in every worker of a training: the plain loop, with Ray at its edges."""

from __future__ import annotations

from typing import Any

import ray.train

from raygen.cluster.train.notes import tied_to
from raygen.cluster.train.streaming import spare_cpus, through_ray
from raygen.data import DataSettings, ImageSource, open_data
from raygen.training import EpochReport, Opener, TrainingTask, run_task


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
    # all that it would tell lies in the run's folder. The question waits for all, so that all leave after one epoch.
    if report.epoch < task.settings.epochs and ray.train.get_preemption_info() is not None:
        raise _MachineLeaves


def _opener(task: TrainingTask) -> Opener:
    """Return how a worker opens its images: a stream is read by the CPUs that the workers leave, where they do."""
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
