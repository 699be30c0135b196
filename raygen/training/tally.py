"""Means over the steps of an epoch, kept on the device: to ask it for a number would make every step wait."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raygen.training.sharing import add_up
from raygen.training.step import StepResult

_TOGETHER = 64
"""Steps that are summed at once."""


@dataclass(frozen=True)
class Pass:
    """Means over one pass over the training images.

    Attributes:
        images: that were seen by all processes.
        loss: mean over images.
        ess: by class, as a part of the batch.
        largest_weight: by class.
        absent: classes without a labelled image, of a batch.
        log_z: (C,) float64, log Z_c as the batches gave it, each with the weights that it met.
        seconds: that the pass took.
    """

    images: int
    loss: float
    ess: tuple[float, ...]
    largest_weight: tuple[float, ...]
    absent: float
    log_z: Tensor
    seconds: float


class Tally:
    """Sums over steps.

    Args:
        classes: how many.
        device: of the steps' results.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        # Rows: effective sample size, largest weight, batches with a labelled image; columns: classes.
        self._by_class = torch.zeros(3, classes, dtype=torch.float64, device=device)
        self._loss = torch.zeros(2, dtype=torch.float64, device=device)  # loss times labelled images, labelled images
        self._log_sum = torch.full((classes,), -torch.inf, dtype=torch.float64, device=device)
        self._waiting: list[StepResult] = []
        self._steps = 0
        self._images = 0

    def add(self, step: StepResult, images: int) -> None:
        """Add a step, of which this process held ``images`` images."""
        self._waiting.append(step)
        self._steps += 1
        self._images += images
        # A step's sums by themselves would cost a small network a noticeable part of the step.
        if len(self._waiting) == _TOGETHER:
            self._flush()

    def total(self, seconds: float) -> Pass:
        """Return the means; every process must ask."""
        self._flush()
        images = add_up(torch.tensor(self._images, device=self._log_sum.device))
        n, (loss, labelled) = int(images), self._loss.tolist()
        ess, largest, present = self._by_class.tolist()
        return Pass(
            images=n,
            loss=loss / labelled if labelled else torch.nan,
            ess=tuple(value / n for value in ess),
            largest_weight=tuple(value / self._steps for value in largest),
            absent=len(present) - sum(present) / self._steps,
            log_z=self._log_sum - images.double().log(),
            seconds=seconds,
        )

    def _flush(self) -> None:
        if not self._waiting:
            return
        terms = [step.terms for step in self._waiting]
        counts = torch.stack([each.counts for each in terms]).double()
        rows = (
            torch.stack([each.effective_sample_size for each in terms]),
            torch.stack([each.largest_weight for each in terms]),
            counts > 0,
        )
        self._by_class += torch.stack([row.double().sum(0) for row in rows])
        labelled = counts.sum(1)
        losses = torch.stack([step.loss for step in self._waiting]).double()
        self._loss += torch.stack((losses @ labelled, labelled.sum()))
        sums = torch.stack([each.log_sum for each in terms]).double()
        self._log_sum = torch.logaddexp(self._log_sum, torch.logsumexp(sums, 0))
        self._waiting.clear()
