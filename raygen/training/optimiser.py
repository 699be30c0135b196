"""Stochastic gradient descent as Caffe's solver has it: biases at a rate of their own."""

from __future__ import annotations

import torch
from torch import nn

from raygen.training.settings import TrainingSettings


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
