"""One step of one worker: its shard of the global batch to the same new parameters on every worker."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raygen.tilting.losses import discriminative_loss, generative_terms
from raygen.training.schedule import Phase
from raygen.training.scoring import Scorer
from raygen.training.sharing import GradientBuffer


@dataclass(frozen=True)
class StepResult:
    """What a step found on the global batch; equal on every worker, and left on the device.

    Attributes:
        loss: scalar.
        log_sum: (C,), logsumexp over the batch of each class's score.
        effective_sample_size: (C,), images.
    """

    loss: Tensor
    log_sum: Tensor
    effective_sample_size: Tensor


def training_step(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    phase: Phase,
    scorer: Scorer,
    gradients: GradientBuffer,
    optimiser: torch.optim.Optimizer,
) -> StepResult:
    """Take one step along the gradient of the global batch; every worker must take it, with or without images.

    Args:
        module: in training mode; changed in place.
        images: (n, C, H, W) uint8, this worker's shard; n may be 0.
        labels: (n,) int64.
        phase: which loss.
        scorer: how images become scores.
        gradients: of the module's parameters.
        optimiser: its rates are set.
    """
    gradients.zero()
    scores = scorer.scores(module, images)
    terms = generative_terms(scores, labels)
    loss = terms.loss if phase == "generative" else discriminative_loss(scores, labels)
    if len(images):
        loss.backward()  # type: ignore[no-untyped-call]
    gradients.sum_over_processes()
    optimiser.step()
    return StepResult(loss.detach(), terms.log_sum, terms.effective_sample_size)
