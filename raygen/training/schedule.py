"""Which gradient an epoch follows, and at which rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

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


def make_optimiser(module: nn.Module, settings: TrainingSettings) -> torch.optim.SGD:
    """Return an SGD over the parameters that require a gradient, in the groups weights and biases."""
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    is_bias = [name.rpartition(".")[2] == "bias" for name, _ in trained]
    weights = [parameter for (_, parameter), bias in zip(trained, is_bias, strict=True) if not bias]
    biases = [parameter for (_, parameter), bias in zip(trained, is_bias, strict=True) if bias]
    decay = settings.weight_decay
    groups = [
        {"params": weights, "rate_factor": 1.0, "weight_decay": decay},
        {"params": biases, "rate_factor": settings.bias_rate_factor,
         "weight_decay": decay * settings.bias_decay_factor},
    ]  # fmt: skip
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        fused=True,
    )


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, each times its factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate_factor"]
