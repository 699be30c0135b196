"""Generative pretraining, then refining, on Ray Train: one plain training loop on every worker."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer

from raygen.cluster.session import capacity
from raygen.data import DataSettings, load_data
from raygen.errors import InputError, RaygenError, SettingsError
from raygen.networks import NetworkSettings, load_network
from raygen.training import EpochReport, State, TrainingFolder, TrainingResult, TrainingSettings, train

_LOOK = 0.5
"""Seconds between two looks at the metrics on storage."""


@dataclass(frozen=True)
class TrainingTask:
    """What every worker is told.

    Attributes:
        folder: where the states and the trained network go.
        network: which architecture; its weights, where given, are where training starts.
        data: which images.
        settings: the recipe.
        seed: of the weights and of the order of the images.
        threads: CPU threads of a worker.
        gpu: whether a worker has a GPU.
    """

    folder: TrainingFolder
    network: NetworkSettings
    data: DataSettings
    settings: TrainingSettings
    seed: int
    threads: int
    gpu: bool


def pretrain(task: TrainingTask, *, workers: int, on_epoch: Callable[[EpochReport], None]) -> None:
    """Train on ``workers`` workers of the connected cluster and leave the trained network in the task's folder.

    A folder with states in it is gone on with; a finished one is left alone.

    Args:
        task: what to train.
        workers: how many; each is one process.
        on_epoch: called here with each epoch's report.

    Raises:
        SettingsError: if the cluster is smaller than asked for.
        RaygenError: if training fails for good.
    """
    if task.folder.finished:
        return
    _check_capacity(task, workers)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if task.gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=task.gpu,
            resources_per_worker={"CPU": task.threads, **({"GPU": 1} if task.gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name="ray", storage_path=_storage(task.folder), failure_config=ray.train.FailureConfig(max_failures=3)
        ),
    )
    with _Watch(task.folder, on_epoch):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _cause(error) from error


def train_workers(task: TrainingTask) -> int:
    """Return how many workers are taken where none are asked for: as many as fit, but at most two."""
    return max(1, min(2, capacity(cpus=task.threads, gpus=1 if task.gpu else 0)))


def _work(config: dict[str, Any]) -> None:
    """Run on every worker."""
    task: TrainingTask = config["task"]
    torch.set_num_threads(task.threads)
    first = ray.train.get_context().get_world_rank() == 0
    start = task.network.model_copy(update={"weights": task.network.weights or "random"})
    network = load_network(start, seed=task.seed)
    train_set, test_set = load_data(task.data, network.input_shape)
    module = copy.deepcopy(network.module).requires_grad_(True)

    def on_epoch(report: EpochReport, make_state: Callable[[], State]) -> None:
        if first:
            task.folder.save_state(make_state())
        ray.train.report(asdict(report))

    result = train(
        module, train_set, test_set,
        mean=network.mean, std=network.std, settings=task.settings, seed=task.seed,
        device=torch.device("cuda" if task.gpu else "cpu"),
        resume=task.folder.newest_state(), on_epoch=on_epoch,
    )  # fmt: skip
    if first:
        description = {
            "network": task.network.network,
            "arguments": task.network.arguments,
            "input_shape": list(network.input_shape),
            "mean": list(network.mean),
            "std": list(network.std),
            "class_names": list(train_set.class_names),
            **_findings(result),
        }
        task.folder.finish(module, description)


def _findings(result: TrainingResult) -> dict[str, Any]:
    # A class without training images has no calibration: JSON has no infinity for it.
    biases = [bias if bias > float("-inf") else None for bias in result.biases]
    return {"log_z": list(result.log_z), "biases": biases, "test": asdict(result.test)}


def _storage(folder: TrainingFolder) -> str:
    # Ray wants an absolute path or a URI.
    location = folder.location
    return location.text if "://" in location.text else location.root


def _check_capacity(task: TrainingTask, workers: int) -> None:
    room = capacity(cpus=task.threads, gpus=1 if task.gpu else 0)
    if workers > room:
        each = f"{task.threads} CPU{'s' if task.threads > 1 else ''}" + (" and a GPU" if task.gpu else "")
        raise SettingsError(f"workers = {workers}, but the cluster has room for {room} of {each}", where="pretrain",
                            right="ask for fewer workers or threads, or for a larger cluster")  # fmt: skip


def _cause(error: BaseException) -> RaygenError:
    """Return the worker's own complaint about its input, or a line that says what it died of."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, InputError):
            return cause
    reason = " ".join(str(next(iter(failures.values()), error)).split())
    return RaygenError(f"pretrain: the workers failed for good ({reason[-300:]})")


class _Watch:
    """Passes on the epochs that appear on storage while the trainer blocks; those from before are not repeated."""

    def __init__(self, folder: TrainingFolder, on_epoch: Callable[[EpochReport], None]) -> None:
        self._folder = folder
        self._on_epoch = on_epoch
        self._seen = len(folder.history())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _loop(self) -> None:
        while not self._stop.wait(_LOOK):
            self._look()

    def _look(self) -> None:
        history = self._folder.history()
        for report in history[self._seen :]:
            self._on_epoch(report)
        self._seen = max(self._seen, len(history))
