"""One worker's training run: of one process, or of many that meet in torch.distributed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raygen.data import ImageSet
from raygen.errors import SettingsError, WeightsError
from raygen.tilting.losses import calibration
from raygen.training.evaluate import evaluate, log_normaliser_of
from raygen.training.optimiser import make_optimiser, set_rate
from raygen.training.reports import EpochReport, TrainingResult
from raygen.training.schedule import learning_rate, phase_of
from raygen.training.scoring import Scorer, make_scorer
from raygen.training.settings import TrainingSettings
from raygen.training.sharing import GradientBuffer, average_buffers, place, start_alike
from raygen.training.step import training_step

State = dict[str, Any]
OnEpoch = Callable[[EpochReport, Callable[[], State]], None]


@dataclass(frozen=True)
class _Run:
    """What stays the same from the first epoch to the last."""

    module: nn.Module
    images: ImageSet
    scorer: Scorer
    optimiser: torch.optim.SGD
    gradients: GradientBuffer
    settings: TrainingSettings
    seed: int


@dataclass(frozen=True)
class _Pass:
    """Means over one pass over the training images."""

    loss: float
    ess: float
    log_z: Tensor
    seconds: float


def train(
    module: nn.Module,
    train_set: ImageSet,
    test_set: ImageSet,
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
        device: holds the module and the images during the run.
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
    module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    start_alike(module)
    train_set, test_set = (_on(device, images) for images in (train_set, test_set))
    scorer = make_scorer(mean, std, len(train_set.class_names), settings.precision, module)
    optimiser = make_optimiser(module, settings)
    history = _restore(module, optimiser, resume, seed) if resume is not None else ()
    gradients = GradientBuffer(module.parameters())
    run = _Run(module, train_set, scorer, optimiser, gradients, settings, seed)
    for epoch in range(len(history), settings.epochs):
        report = _train_epoch(run, epoch, test_set)
        history = (*history, report)
        if on_epoch is not None:
            on_epoch(report, lambda history=history: _state(run, history))  # type: ignore[misc]
    gradients.release()
    log_z = log_normaliser_of(module, train_set, scorer.exact())
    biases = calibration(log_z, train_set.labels)
    test = evaluate(module, test_set, biases, scorer.exact())
    return TrainingResult(history, test, tuple(log_z.tolist()), tuple(biases.tolist()))


def _train_epoch(run: _Run, epoch: int, test_set: ImageSet) -> EpochReport:
    start = time.perf_counter()
    found = _train_pass(run, epoch)
    if not math.isfinite(found.loss):
        what = f"the loss is {found.loss} in epoch {epoch + 1}"
        raise SettingsError(what, where="learning_rate", right="give a smaller one")
    average_buffers(run.module)
    test = evaluate(run.module, test_set, calibration(found.log_z, run.images.labels), run.scorer.exact())
    return EpochReport(
        epoch=epoch + 1,
        phase=phase_of(epoch, run.settings),
        loss=found.loss,
        test_error=test.error,
        test_error_calibrated=test.error_calibrated,
        ess=found.ess,
        images_per_second=len(run.images) / found.seconds,
        seconds=time.perf_counter() - start,
    )


def _train_pass(run: _Run, epoch: int) -> _Pass:
    start = time.perf_counter()
    rank, processes = place()
    device, n = run.images.labels.device, len(run.images)
    order = torch.from_numpy(np.random.default_rng((run.seed, epoch)).permutation(n)).to(device)
    batches = order.split(run.settings.batch_size)  # type: ignore[no-untyped-call]
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    log_sum = torch.full((run.scorer.classes,), -torch.inf, dtype=torch.float64, device=device)
    run.module.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_mixed(run.seed, epoch, rank))
        for number, batch in enumerate(batches):
            set_rate(run.optimiser, learning_rate(epoch * len(batches) + number, len(batches), run.settings))
            mine = batch[rank::processes]
            step = training_step(
                run.module,
                run.images.images[mine],
                run.images.labels[mine],
                phase=phase_of(epoch, run.settings),
                scorer=run.scorer,
                gradients=run.gradients,
                optimiser=run.optimiser,
            )
            sums += torch.stack((step.loss * len(batch), step.effective_sample_size.mean()))
            log_sum = torch.logaddexp(log_sum, step.log_sum.double())
    loss, ess = (sums / n).tolist()
    return _Pass(loss, ess, log_sum - math.log(n), time.perf_counter() - start)


def _state(run: _Run, history: tuple[EpochReport, ...]) -> State:
    weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in run.module.state_dict().items()}
    optimiser = run.optimiser.state_dict()
    momenta = {
        index: {
            name: value.to("cpu", copy=True) if isinstance(value, Tensor) else value for name, value in kept.items()
        }
        for index, kept in optimiser["state"].items()
    }
    return {
        "weights": weights,
        "optimiser": {**optimiser, "state": momenta},
        "epoch": len(history),
        "history": [asdict(report) for report in history],
        # All random numbers of an epoch come from (seed, epoch, rank), so this is the whole random state.
        "seed": run.seed,
    }


def _restore(module: nn.Module, optimiser: torch.optim.Optimizer, state: State, seed: int) -> tuple[EpochReport, ...]:
    where = f"training state after epoch {state['epoch']}"
    if state["seed"] != seed:
        raise WeightsError(f"it is of seed {state['seed']}, not {seed}", where=where, right="go on with its seed")
    try:
        module.load_state_dict(state["weights"])
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"does not fit ({error})", where=where, right="go on with the same network") from error
    return tuple(EpochReport(**report) for report in state["history"])


def _on(device: torch.device, images: ImageSet) -> ImageSet:
    return replace(images, images=images.images.to(device), labels=images.labels.to(device))


def _mixed(*numbers: int) -> int:
    """Return one seed of many numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
