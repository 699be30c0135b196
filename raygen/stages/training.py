"""Pretraining, on Ray Train or in this process; the pages of a run; and all stages in one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch

from raygen.config import PipelineConfig, PretrainConfig
from raygen.data import PICTURE_SETS, DataSettings, open_data
from raygen.errors import SettingsError, UnfinishedError
from raygen.gallery import GallerySummary, build_gallery
from raygen.networks import NetworkSettings, load_network
from raygen.runs import FarmReport
from raygen.stages.sampling import Sampled, about, read_request, sample_request, while_held
from raygen.store import Run
from raygen.training import (
    EpochReport,
    TrainingFolder,
    TrainingSettings,
    TrainingTask,
    check_images,
    check_trains,
    run_task,
)

Part = TypeVar("Part", NetworkSettings, DataSettings)


def pretrain(config: PretrainConfig, on_epoch: Callable[[EpochReport], None]) -> TrainingFolder:
    """Train a network, on Ray Train or, if ``local``, in this process; continue where the same command was stopped.

    Raises:
        InputError: if a setting, the data or the folder is wrong.
    """
    _check_gpus(config)
    # A worker may have another working directory.
    network = _absolute(NetworkSettings.part_of(config), "weights", "class_names")
    data = _absolute(DataSettings.part_of(config), "data_root")
    settings = TrainingSettings.part_of(config)
    most = max(config.workers or 2, config.max_workers or 0)
    workers = [1] if config.local else range(config.workers or 1, most + 1)
    request = _training_request(network, data, settings, config.seed, workers)
    facts = {**about(), **({"recipe": config.recipe} if config.recipe else {})}
    with TrainingFolder.lock(config.out) as lock:
        folder = TrainingFolder.claim(config.out, request, about=facts)
        if not folder.finished:
            task = TrainingTask(
                folder, network, data, settings, config.seed, config.threads, config.gpus > 0, code=str(Path.cwd())
            )
            _train(task, config, while_held(lock, on_epoch))
        if not folder.finished:
            raise UnfinishedError(f"{folder.location.title}: the trained network was written and is gone; run the same "
                                  "command again, which continues after the last epoch that is there")  # fmt: skip
        folder.check_network()
    return folder


def pipeline(
    config: PipelineConfig,
    *,
    on_epoch: Callable[[EpochReport], None],
    on_trained: Callable[[TrainingFolder], None],
    on_progress: Callable[[FarmReport], None],
) -> Sampled:
    """Pretrain a network and sample its nodes, in one folder and one session.

    Raises:
        InputError, UnfinishedError: as its stages do.
    """
    with Run.lock(config.out) as lock, nullcontext() if config.local else _session(config.address):
        folder = pretrain(config.pretraining, on_epoch)
        on_trained(folder)
        second = config.sampling(folder.network)
        return sample_request(second, read_request(second), while_held(lock, on_progress))


def gallery(folder: str) -> GallerySummary:
    """Make the pages of the run in ``folder``."""
    return build_gallery(Run.open(folder))


def _session(address: str | None) -> AbstractContextManager[None]:
    from raygen.cluster import session  # noqa: PLC0415  (only here Ray is needed)

    return session(address)


def _train(task: TrainingTask, config: PretrainConfig, on_epoch: Callable[[EpochReport], None]) -> None:
    if config.local:
        run_task(task, on_epoch)
        return
    from raygen.cluster import pretrain as pretrain_on_ray  # noqa: PLC0415  (only here Ray is needed)
    from raygen.cluster import training_workers  # noqa: PLC0415

    with _session(config.address):
        workers = training_workers(task, config.workers, config.max_workers)
        pretrain_on_ray(task, workers=workers, on_epoch=on_epoch)


def _training_request(
    network: NetworkSettings, data: DataSettings, settings: TrainingSettings, seed: int, workers: Iterable[int]
) -> dict[str, Any]:
    """Return what decides the outcome; what is wrong with it is found here, not by every worker."""
    start = load_network(network.model_copy(update={"weights": network.weights or "random"}), seed=seed)
    # Pictures are listed, and not read.
    listed = data.model_copy(update={"stream": True}) if data.data in PICTURE_SETS else data
    train_set, test_set = open_data(listed, start.input_shape)
    check_images(start, train_set, test_set)
    check_trains(start, settings, len(train_set.class_names), len(train_set), workers)
    return {
        "network": start.name,
        "arguments": network.arguments,
        "weights_hash": start.weights_hash,
        "input_shape": start.input_shape,
        "data": data.data,
        "limit": data.limit,
        "images": [len(train_set), len(test_set)],
        "image_column": data.image_column,
        "label_column": data.label_column,
        "augment": data.augment,
        "stream": data.stream,
        "settings": settings.model_dump(),
        "seed": seed,
    }


def _absolute(settings: Part, *names: str) -> Part:
    """Return settings whose local files have absolute paths."""
    found = {name: getattr(settings, name) for name in names}
    paths = {name: Path(text).absolute() for name, text in found.items() if text and "://" not in text}
    return settings.model_copy(update={name: str(path) for name, path in paths.items() if path.exists()})


def _check_gpus(config: PretrainConfig) -> None:
    if config.gpus not in (0, 1):
        raise SettingsError(f"{config.gpus:g} GPUs for a training worker, which takes one", where="gpus",
                            right="give 1, and as many workers as GPUs, or 0")  # fmt: skip
    if config.local and config.gpus and not torch.cuda.is_available():
        raise SettingsError("this machine has no GPU", where="gpus", right="give --gpus 0 to train on CPUs")
