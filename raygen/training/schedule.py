"""Which gradient an epoch follows, and at which rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from raygen.training.settings import TrainingSettings

Phase = Literal["generative", "blend", "discriminative"]


def switch_epoch(settings: TrainingSettings, ess: Sequence[float]) -> int:
    """Return the epoch, counted from 0, from which on the gradient is discriminative.

    Args:
        settings: the recipe.
        ess: mean effective sample size of each epoch that is done, as a part of the batch. Generative pretraining
            helps while it is large; under ``switch_ess`` the next epoch is discriminative.
    """
    planned = settings.planned_switch
    if settings.switch_ess is None or settings.objective != "generative-then-discriminative":
        return planned
    low = (epoch + 1 for epoch, value in enumerate(ess[:planned]) if value < settings.switch_ess)
    return next(low, planned)


def phase_of(epoch: int, settings: TrainingSettings, switch: int) -> Phase:
    """Return the gradient that ``epoch``, counted from 0, follows."""
    if epoch >= switch:
        return "discriminative"
    return "blend" if settings.objective == "blend" else "generative"


def learning_rate(iteration: int, iterations_per_epoch: int, settings: TrainingSettings, switch: int) -> float:
    """Return the rate of an iteration, counted from 0 over all epochs.

    Caffe's policies: "inv", rate (1 + gamma i)^-power; "step", rate factor^(i // step). Refinement counts i anew, from
    its own rate (paper, section 4).
    """
    first = switch * iterations_per_epoch
    refines = 0 < first <= iteration
    start, count = (settings.refine_rate, iteration - first) if refines else (settings.learning_rate, iteration)
    if settings.decay == "step":
        return float(start * settings.decay_factor ** (count // (settings.decay_epochs * iterations_per_epoch)))
    return float(start * (1 + settings.decay_gamma * count) ** -settings.decay_power)
