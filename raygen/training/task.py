"""A training run from its request to its trained network in a folder: what every worker does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist

from raygen.data import DataSettings, ImageSource, open_data
from raygen.networks import NetworkSettings, load_network
from raygen.process import keep_freed_memory
from raygen.training.check import trainable
from raygen.training.folder import TrainingFolder
from raygen.training.loop import train
from raygen.training.reports import EpochReport, TrainingResult
from raygen.training.settings import TrainingSettings
from raygen.training.sharing import calm_gloo, rank_and_processes
from raygen.training.state import State

Opener = Callable[[DataSettings, tuple[int, int, int]], tuple[ImageSource, ImageSource]]
"""From what is asked, and the (C, H, W) that the network takes, to the training and the test images."""


@dataclass(frozen=True)
class TrainingTask:
    """What every worker needs to know.

    Attributes:
        folder: where the states and the trained network go.
        network: which architecture; its weights, where given, are where training starts.
        data: which images.
        settings: the recipe.
        seed: of the weights and of the order of the images.
        threads: CPU threads of a worker.
        gpu: whether a worker has a GPU.
        code: folder in which Python looks last for the package of a user's network; a worker may have another working
            directory.
    """

    folder: TrainingFolder
    network: NetworkSettings
    data: DataSettings
    settings: TrainingSettings
    seed: int
    threads: int
    gpu: bool
    code: str | None = None


def run_task(task: TrainingTask, on_epoch: Callable[[EpochReport], None], opener: Opener = open_data) -> None:
    """Train in this process, or together with all others of torch.distributed, which call this alike.

    Goes on after the newest state in the task's folder; the first process writes a state after each epoch, and the
    trained network at the end.

    Args:
        task: what to train.
        on_epoch: called with the report of each epoch, after its state is written.
        opener: opens the images.

    Raises:
        InputError: as loading, data and training do.
    """
    torch.set_num_threads(task.threads)
    keep_freed_memory()
    first = rank_and_processes()[0] == 0
    device = torch.device("cuda" if task.gpu else "cpu")
    resume = _common_state(task.folder, device)
    calm_gloo()  # its threads are there once processes have met
    if first and resume is not None:
        # A run stopped between a state and its metrics may have no epoch left to write them again.
        task.folder.save_history(resume["history"])
    start = task.network.model_copy(update={"weights": task.network.weights or "random"})
    network = load_network(start, seed=task.seed, code=task.code)
    train_set, test_set = opener(task.data, network.input_shape)
    module = trainable(network, train_set.class_names, named=task.network.weights not in (None, "random"))

    def keep(report: EpochReport, make_state: Callable[[], State]) -> None:
        if first:
            task.folder.save_state(make_state())
        on_epoch(report)

    result = train(
        module, train_set, test_set,
        mean=network.mean, std=network.std, settings=task.settings, seed=task.seed,
        device=device, resume=resume, on_epoch=keep,
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


def _common_state(folder: TrainingFolder, device: torch.device) -> State | None:
    """Return the newest state that the first process finds: all others must go on from the same one."""
    rank, processes = rank_and_processes()
    state = folder.newest_state() if rank == 0 else None
    if processes > 1:
        epoch = torch.tensor(state["epoch"] if state is not None else 0, device=device)
        dist.broadcast(epoch, src=0)
        if rank > 0 and epoch > 0:
            return folder.state_after(int(epoch))
    return state


def _findings(result: TrainingResult) -> dict[str, Any]:
    # A class without training images has no calibration: JSON has no infinity for it.
    biases = [bias if bias > float("-inf") else None for bias in result.biases]
    return {"log_z": list(result.log_z), "biases": biases, "test": asdict(result.test)}
