"""Step sizes that reach an acceptance rate, by dual averaging (Hoffman & Gelman 2014, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Hoffman & Gelman 2014, section 3.2.1: how strongly, how soon and with what memory the average is followed.
_SHRINKAGE = 0.05
_OFFSET = 10
_DECAY = 0.75


@dataclass(frozen=True)
class DualAveraging:
    """The step sizes of G groups of chains, each driven to the same acceptance rate.

    Attributes:
        log_step: log of the step size to be tried next, shape (G,).
        log_average: log of the weighted average of those tried, which is what is frozen in the end, shape (G,).
        error: running mean of target less measured acceptance, shape (G,).
        count: updates so far.
        target: acceptance rate to reach, in 0..1.
        largest: step size never exceeded.
        anchor: log of the step size that the search leans towards.
    """

    log_step: Tensor
    log_average: Tensor
    error: Tensor
    count: int
    target: float
    largest: float
    anchor: Tensor

    @classmethod
    def begin(cls, step_size: Tensor, *, target: float, largest: float) -> DualAveraging:
        """Begin at ``step_size`` (G,); the search leans towards ten times as much, but at most ``largest``."""
        log_step = step_size.log().clamp(max=math.log(largest))
        anchor = (log_step + math.log(10)).clamp(max=math.log(largest))
        return cls(log_step, log_step, torch.zeros_like(log_step), 0, target, largest, anchor)

    def update(self, acceptance: Tensor) -> DualAveraging:
        """Take in the mean acceptance probability of each group in the last step, shape (G,)."""
        count = self.count + 1
        weight = 1 / (count + _OFFSET)
        error = (1 - weight) * self.error + weight * (self.target - acceptance)
        log_step = (self.anchor - math.sqrt(count) / _SHRINKAGE * error).clamp(max=math.log(self.largest))
        decay = count**-_DECAY
        log_average = decay * log_step + (1 - decay) * self.log_average
        return replace(self, log_step=log_step, log_average=log_average, error=error, count=count)

    def restart(self) -> DualAveraging:
        """Begin again from the present step size: the target has changed."""
        return DualAveraging.begin(self.log_step.exp(), target=self.target, largest=self.largest)

    @property
    def step_size(self) -> Tensor:
        """The step size to be tried next, shape (G,)."""
        return self.log_step.exp()

    @property
    def average(self) -> Tensor:
        """The step size to be frozen, shape (G,)."""
        return self.log_average.exp()
