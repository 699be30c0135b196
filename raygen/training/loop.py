"""One worker's training run: of one process, or of many that meet in torch.distributed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from raygen.data import ImageSource, Share
from raygen.errors import SettingsError
from raygen.training.evaluation import evaluate, log_normaliser_of
from raygen.training.losses import calibration
from raygen.training.reports import EpochReport, TrainingResult
from raygen.training.schedule import learning_rate, make_optimiser, phase_of, set_rate, switch_epoch
from raygen.training.scoring import Scorer, arithmetic, make_ready, make_scorer
from raygen.training.settings import TrainingSettings
from raygen.training.sharing import GradientBuffer, add_up, average_buffers, rank_and_processes, start_alike
from raygen.training.state import State, make_state, restore
from raygen.training.step import Recipe, training_step
from raygen.training.tally import Pass, Tally

OnEpoch = Callable[[EpochReport, Callable[[], State]], None]


@dataclass(frozen=True)
class _Run:
    """What stays the same from the first epoch to the last."""

    module: nn.Module
    images: ImageSource
    scorer: Scorer
    optimiser: torch.optim.SGD
    gradients: GradientBuffer
    settings: TrainingSettings
    seed: int


@dataclass(frozen=True)
class _Epoch:
    """Which epoch it is, from 0, and the one from which on the gradient is discriminative."""

    number: int
    switch: int


def train(
    module: nn.Module,
    train_set: ImageSource,
    test_set: ImageSource,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    settings: TrainingSettings,
    seed: int,
    device: torch.device,
    resume: State | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingResult:
    """Train ``module`` in place.

    Where torch.distributed is initialised, every process calls this with the same arguments (but ``device``), takes
    an interleaved share of every global batch, and holds the same parameters after every step. The order of the
    images comes from (seed, epoch) alone, other random numbers (dropout) from (seed, epoch, rank).

    Args:
        module: maps (n, C, H, W) to scores (n, classes). Its normaliser over a batch (batch normalisation), if it
            has one, sees each worker's share alone.
        train_set: the images to learn.
        test_set: of the same classes; a label of -1 marks a training image for the reference sample only.
        mean: one number a channel, pixels being 0 to 1.
        std: one number a channel: network input = (pixel - mean) / std.
        settings: the recipe.
        seed: 0 or more.
        device: holds the module, and images that lie in memory, during the run.
        resume: a state that ``on_epoch`` was given; the run goes on after its epoch, bit for bit as
            far as the device's kernels are deterministic (a CPU's are).
        on_epoch: called on every process after each epoch with the report and a function that makes the state: plain
            values and tensors in memory, fit for ``torch.save`` and a load with ``weights_only=True``.

    Returns:
        What the run found; the module is left in evaluation mode, without gradients.

    Raises:
        DataError: the network's scores do not fit the classes.
        SettingsError: the loss is no longer finite.
        WeightsError: ``resume`` does not fit the module or the seed.
    """
    make_ready(module, device)
    start_alike(module)
    train_set, test_set = train_set.to(device), test_set.to(device)
    scorer = make_scorer(mean, std, len(train_set.class_names), settings.precision, module)
    optimiser = make_optimiser(module, settings)
    history = restore(module, optimiser, resume, seed) if resume is not None else ()
    run = _Run(module, train_set, scorer, optimiser, GradientBuffer(module.parameters()), settings, seed)
    for number in range(len(history), settings.epochs):
        epoch = _Epoch(number, switch_epoch(settings, [report.ess for report in history]))
        report = _train_epoch(run, epoch, test_set)
        history = (*history, report)
        if on_epoch is not None:
            on_epoch(report, lambda history=history: make_state(module, optimiser, history, seed))  # type: ignore[misc]
    run.gradients.release()
    log_z = log_normaliser_of(module, train_set, scorer.exact())
    biases = calibration(log_z, train_set.labels)
    test = evaluate(module, test_set, biases, scorer.exact())
    return TrainingResult(history, test, tuple(log_z.tolist()), tuple(biases.tolist()))


def _train_epoch(run: _Run, epoch: _Epoch, test_set: ImageSource) -> EpochReport:
    start = time.perf_counter()
    with arithmetic(run.settings.precision):
        found = _train_pass(run, epoch)
    if not math.isfinite(found.loss):
        what = f"the loss is {found.loss} in epoch {epoch.number + 1}"
        raise SettingsError(what, where="learning_rate", right="give a smaller one")
    average_buffers(run.module)
    biases = calibration(found.log_z, run.images.labels)
    test = evaluate(run.module, test_set, biases, run.scorer.exact())
    return EpochReport(
        epoch=epoch.number + 1,
        phase=phase_of(epoch.number, run.settings, epoch.switch),
        loss=found.loss,
        test=test,
        ess=sum(found.ess) / len(found.ess),
        ess_by_class=found.ess,
        largest_weight_by_class=found.largest_weight,
        absent=found.absent,
        learning_rate=run.optimiser.param_groups[0]["lr"],
        skipped=_over_processes(len(run.images.skipped), run.scorer.mean.device),
        images_per_second=found.images / found.seconds,
        seconds=time.perf_counter() - start,
    )


def _train_pass(run: _Run, epoch: _Epoch) -> Pass:
    start = time.perf_counter()
    settings, share = run.settings, Share(*rank_and_processes())
    device = run.scorer.mean.device
    steps = run.images.steps(settings.batch_size, share.processes)
    recipe = Recipe(
        weight=settings.weight_before_switch if epoch.number < epoch.switch else 0.0,
        scorer=run.scorer,
        micro_batch=settings.micro_batch,
        clip_norm=settings.clip_norm,
    )
    tally = Tally(run.scorer.classes, device)
    run.module.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_mixed(run.seed, epoch.number, share.rank))
        for step, batch in enumerate(run.images.epoch(run.seed, epoch.number, settings.batch_size, share)):
            rate = learning_rate(epoch.number * steps + step, steps, settings, epoch.switch)
            set_rate(run.optimiser, rate)
            found = training_step(
                run.module, batch.to(device), recipe, gradients=run.gradients, optimiser=run.optimiser
            )
            tally.add(found, len(batch.labels))
    return tally.total(time.perf_counter() - start)


def _over_processes(number: int, device: torch.device) -> int:
    """Return the sum over the processes."""
    return int(add_up(torch.tensor([number], device=device)))


def _mixed(*numbers: int) -> int:
    """Return one seed of many numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
