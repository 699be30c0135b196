"""Which gradient an epoch follows, and at which rate."""

from __future__ import annotations

from typing import Literal

from raygen.training.settings import TrainingSettings

Phase = Literal["generative", "discriminative"]


def phase_of(epoch: int, settings: TrainingSettings) -> Phase:
    """Return the gradient that ``epoch``, counted from 0, follows."""
    return "generative" if epoch < settings.generative_epochs else "discriminative"


def learning_rate(iteration: int, iterations_per_epoch: int, settings: TrainingSettings) -> float:
    """Return the rate of an iteration, counted from 0 over all epochs.

    Caffe's "inv" policy, rate (1 + gamma i)^-power. Refinement counts i anew from its own rate (paper, section 4).
    """
    switch = settings.generative_epochs * iterations_per_epoch
    refines = 0 < switch <= iteration
    start, count = (settings.refine_rate, iteration - switch) if refines else (settings.learning_rate, iteration)
    return float(start * (1 + settings.decay_gamma * count) ** -settings.decay_power)
