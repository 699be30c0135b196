"""Generative pretraining, then refining, on Ray Train: one plain training loop on every worker.

The states in the run's folder are the truth. Ray Train's own bookkeeping goes to a folder of this start alone, which is
thrown away: there is nothing of it to be torn, and nothing that a later start could fall back on. For the same reason
failures are counted here, where it can be seen whether a try has brought an epoch.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray.train.torch import TorchConfig

# What ray.train exports is typed as its first version.
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from raygen.cluster.lifeline import Lost
from raygen.cluster.machines import capacity
from raygen.cluster.train.watch import Watch, WorkerLog
from raygen.cluster.train.worker import work
from raygen.errors import InputError, RaygenError, SettingsError, StoreError
from raygen.process import process_start
from raygen.training import EpochReport, TrainingTask

_NOTES = "raygen-train-"

log = logging.getLogger(__name__)

_TRIES = 4
"""Tries in a row, without an epoch done, after which training fails."""

_LOOK = 0.5
"""Seconds between two looks at the run's folder."""

_PATIENCE = 15.0
"""Seconds that workers have to end when their driver is stopped."""

RESIZE_SECONDS = 60.0
"""Seconds between two looks whether more workers fit; growing costs the epoch that was begun."""


@dataclass(frozen=True)
class Workers:
    """How many workers train: from ``minimum`` on, and up to ``maximum`` as the cluster grows.

    Attributes:
        minimum: training waits until so many run.
        maximum: the same number where it is not to change.
    """

    minimum: int
    maximum: int


def pretrain(
    task: TrainingTask,
    *,
    workers: Workers,
    on_epoch: Callable[[EpochReport], None],
    resize_seconds: float = RESIZE_SECONDS,
) -> None:
    """Train on workers of the connected cluster and leave the trained network in the task's folder.

    A folder with states in it is continued, with any number of workers; a finished one is left alone. When a worker
    dies, all begin again after the newest state; when its machine is about to go, after the current epoch.

    Args:
        task: what to train.
        workers: how many; each is one process. See ``training_workers``.
        on_epoch: called here, in this thread, with each epoch's report.
        resize_seconds: between two looks whether more workers fit.

    Raises:
        InputError: as loading, data and training do.
        RaygenError: if the workers died too often without an epoch between.
    """
    folder = task.folder
    if folder.finished:
        return
    # The workers stay where relative paths mean what they mean to the user.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    watch = Watch(folder, on_epoch, lambda: _waiting(task, workers))
    failures = 0
    while not folder.finished:
        before = folder.epochs
        error = _try(task, workers, resize_seconds, watch)
        # No error and no network: the workers left because a machine of theirs is about to go.
        left = error is None and folder.epochs > before
        if folder.finished or left or _is_wait(error):
            continue
        cause = _cause(error)
        if isinstance(cause, InputError) and not isinstance(cause, StoreError):
            raise cause from error
        failures = 1 if folder.epochs > before else failures + 1
        if failures == _TRIES:
            raise _final(cause) from error
        log.warning("pretrain: continues after epoch %d; what happened: %s", folder.epochs, _line(cause))


def training_workers(task: TrainingTask, minimum: int | None, maximum: int | None) -> Workers:
    """Return how many workers to train with on the cluster as it is, and how many where it may grow.

    Args:
        task: what they train.
        minimum: asked for; None for as many as fit, but at most two.
        maximum: up to so many as the cluster grows; None for as many as there are at the start.

    Raises:
        SettingsError: if the minimum does not fit on the cluster as it is, or is over the maximum.
    """
    gpus = 1 if task.gpu else 0
    room = capacity(cpus=task.threads, gpus=gpus)
    fewest = max(1, min(2, room, maximum or 2)) if minimum is None else minimum
    if maximum is not None and fewest > maximum:
        raise SettingsError(f"{maximum} is under the {fewest} of workers", where="max_workers",
                            right="give as many at least, or leave workers out")  # fmt: skip
    if gpus and capacity(cpus=0, gpus=1) < 1:
        raise SettingsError("no machine of the cluster has a GPU", where="gpus",
                            right="give --gpus 0 to train on CPUs, or join a cluster that has GPUs")  # fmt: skip
    if fewest > room:
        raise SettingsError(f"workers = {fewest}, but the cluster has room for {room} of {_needs(task)}",
                            where="pretrain",
                            right="ask for fewer workers or threads, or for a larger cluster")  # fmt: skip
    return Workers(fewest, fewest if maximum is None else maximum)


def _try(task: TrainingTask, workers: Workers, resize_seconds: float, watch: Watch) -> BaseException | None:
    """Train until the network is there, or something ends the workers; return what did."""
    outcome: list[BaseException] = []
    worker_log = WorkerLog()
    with _bookkeeping() as folder:
        trainer = _trainer(task, workers, resize_seconds, folder, worker_log)

        def fit() -> None:
            try:
                trainer.fit()
            except BaseException as error:  # judged by the caller
                outcome.append(error)

        # In the main thread Ray would take Ctrl-C over, and keep it.
        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        patience = _PATIENCE
        try:
            while thread.is_alive():
                thread.join(_LOOK)
                worker_log.log()
                watch.look()
        except Lost:
            patience = 0.0  # nobody answers
            raise
        finally:
            worker_log.close(patience)
            thread.join(patience)
    return outcome[0] if outcome else None


def _trainer(
    task: TrainingTask, workers: Workers, resize_seconds: float, folder: str, worker_log: WorkerLog
) -> TorchTrainer:
    fixed = workers.minimum == workers.maximum
    return TorchTrainer(
        work,
        train_loop_config={"task": task, "inbox": worker_log.inbox},
        torch_config=TorchConfig(backend="nccl" if task.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.minimum if fixed else (workers.minimum, workers.maximum),
            use_gpu=task.gpu,
            resources_per_worker={"CPU": task.threads, **({"GPU": 1} if task.gpu else {})},
            elastic_resize_monitor_interval_s=resize_seconds,
        ),
        run_config=RunConfig(
            name="training",
            storage_path=folder,
            # Preempted machines cost nothing; all other failures are counted here.
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=-1, controller_failure_limit=0),
        ),
    )


@contextmanager
def _bookkeeping() -> Iterator[str]:
    """Give a folder of this machine, where Ray's controller runs too, for what Ray notes for itself.

    Those of drivers that were killed are removed.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_NOTES}*"):
        pid, _, rest = left.name.removeprefix(_NOTES).partition("-")
        # Process numbers are used again: when it began tells which one it was.
        if pid.isdecimal() and process_start(int(pid)) not in {rest.partition("-")[0], "unknown"}:
            shutil.rmtree(left, ignore_errors=True)  # another user's stays
    prefix = f"{_NOTES}{os.getpid()}-{process_start(os.getpid())}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield folder


def _needs(task: TrainingTask) -> str:
    return f"{task.threads} CPU{'s' if task.threads > 1 else ''}" + (" and a GPU" if task.gpu else "")


def _waiting(task: TrainingTask, workers: Workers) -> str | None:
    """Return what training waits for, None if it has what it needs."""
    room = capacity(cpus=task.threads, gpus=1 if task.gpu else 0)
    if room >= workers.minimum:
        return None
    return f"pretrain: waiting for machines: room for {room} of {workers.minimum} workers of {_needs(task)}"


def _is_wait(error: BaseException | None) -> bool:
    """Whether a try ended because others hold the CPUs or GPUs that there are."""
    cause = getattr(error, "controller_failure", None)
    waited = type(cause).__name__ == "WorkerGroupStartupTimeoutError"  # Ray does not export it
    if waited:
        log.warning("pretrain: waiting for CPUs or GPUs that others hold")
    return waited


def _cause(error: BaseException | None) -> BaseException:
    """Return a worker's error, or what it died of; an input that is wrong before anything else."""
    if error is None:
        return RaygenError("pretrain: the workers ended without a network")
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    wrong = [failure for failure in failures.values() if isinstance(failure, InputError)]
    # When one dies, the others end with errors of the connection.
    dead = [failure.health_check_failure for failure in failures.values() if hasattr(failure, "health_check_failure")]
    other: BaseException = getattr(error, "controller_failure", error)
    return next(iter([*wrong, *dead, *failures.values()]), other)


def _final(cause: BaseException) -> RaygenError:
    if isinstance(cause, RaygenError):
        return cause
    return RaygenError(f"pretrain: {_TRIES} times in a row the workers failed before an epoch was done: {_line(cause)}")


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300] if isinstance(error, RaygenError) else f"{type(error).__name__}: {text[:300]}"
