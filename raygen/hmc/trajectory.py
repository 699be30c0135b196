"""Trajectory lengths, one a node: a given angle, or as long as it pays to go.

The latter is ChEES (Hoffman, Radul & Sountsov 2021): the expected squared change of |z - mean|^2 along a trajectory,
estimated by the chains of a node together, is driven to its largest value for each unit of length, that is for each
gradient (as Sountsov & Hoffman 2021 do). In an image almost all directions are the reference's, which alone ask for
an angle of 1.17; so the score's own squared change has an equal voice. On nodes of a LeNet either alone was worse:
without the score, lengths come out too short and noisy, with it alone so long that the tails mix badly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raygen.hmc.state import ChainState, StepInfo, along_rows, row_dot

_MEMORY = 0.95
"""Of the running means of the criteria and their slopes, which a few chains measure coarsely."""

_GAIN = 0.05
"""Change of the log length for a relative slope of 1 or more."""

_DECAY = 0.75
"""Of the weights of the averaged log length, as in dual averaging."""

_STEPS = (*range(1, 9), *range(10, 17, 2), *(2**octave * eighth for octave in range(2, 9) for eighth in range(5, 9)))
"""Numbers of steps in use, an eighth of an octave apart at least: trajectories of equal steps share their passes."""

_TINY = 1e-30
"""Instead of zero in a denominator."""


@dataclass(frozen=True)
class TrajectoryLength:
    """The trajectory lengths of the nodes of a batch, each learnt from the node's own chains.

    Attributes:
        log_length: log of the length to be tried next, shape (nodes,); radians for the rotation.
        log_average: log of the weighted average of those tried, which is frozen in the end, shape (nodes,).
        criteria, slopes: running means of both criteria and of their derivatives by the log length, shape (2, nodes).
        count: updates so far.
        longest: length never exceeded.
        most_steps: of a trajectory; where a length would take more, the trajectory is shorter.
    """

    log_length: Tensor
    log_average: Tensor
    criteria: Tensor
    slopes: Tensor
    count: int
    longest: float
    most_steps: int

    @classmethod
    def begin(cls, nodes: int, like: Tensor, *, length: float, longest: float, most_steps: int) -> TrajectoryLength:
        """Begin at ``length`` for all nodes."""
        log_length = like.new_full((nodes,), math.log(length))
        zeros = log_length.new_zeros((2, nodes))
        return cls(log_length, log_length, zeros, zeros, 0, longest, most_steps)

    def update(self, start: ChainState, info: StepInfo) -> TrajectoryLength:
        """Take in one trajectory of each chain; those of a node lie side by side."""
        step = (info.length / info.steps.to(info.length)).view(len(self.log_length), -1).mean(1).log()
        criteria, slopes = _measure(start, info, len(self.log_length))
        count = self.count + 1
        criteria = _MEMORY * self.criteria + (1 - _MEMORY) * criteria
        slopes = _MEMORY * self.slopes + (1 - _MEMORY) * slopes
        # Of the log of criterion over length; 0 where nothing was measured, as of a single chain.
        relative = torch.where(criteria > 0, slopes / criteria - 1, 0.0).clamp(-1, 1).mean(0)
        # A length outside of these could not be tried.
        log_length = (self.log_length + _GAIN * relative).minimum(step + math.log(self.most_steps))
        log_length = log_length.maximum(step).clamp(max=math.log(self.longest))
        decay = count**-_DECAY
        log_average = decay * log_length + (1 - decay) * self.log_average
        return replace(self, log_length=log_length, log_average=log_average, criteria=criteria, slopes=slopes,
                       count=count)  # fmt: skip

    def steps(self, step_size: Tensor) -> Tensor:
        """Return the fewest steps of at most ``step_size`` (N,) that make a trajectory; (N,), int64, on the CPU."""
        return self._steps(self.log_length, step_size)

    def frozen(self, step_size: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is used after warm-up: step sizes of at most ``step_size``, and steps that make the length.

        Their product is the length itself, but where that takes too many steps. A trajectory of few steps gains more by
        that than by ending too far or too near.
        """
        steps = self._steps(self.log_average, step_size)
        length = self.log_average.exp().repeat_interleave(len(step_size) // len(self.log_average))
        return torch.minimum(step_size, length / steps.to(length)), steps

    def _steps(self, log_length: Tensor, step_size: Tensor) -> Tensor:
        length = log_length.exp().repeat_interleave(len(step_size) // len(log_length))
        # A length of n steps to round-off is one of n steps.
        wanted = (length / step_size).double().cpu() * (1 - 1e-6)
        known = torch.tensor([steps for steps in _STEPS if steps <= self.most_steps])
        return known[torch.searchsorted(known.double(), wanted).clamp(max=len(known) - 1)]


def _measure(start: ChainState, info: StepInfo, nodes: int) -> tuple[Tensor, Tensor]:
    """Return both criteria of each node and their derivatives by the log of the length, shape (2, nodes)."""
    end = info.proposal
    fine = (
        (info.acceptance > 0) & end.position.flatten(1).isfinite().all(1) & info.momentum.flatten(1).isfinite().all(1)
    )
    weight = torch.where(fine, info.acceptance, 0.0)
    away = _centred(end.position, weight, nodes)
    # A single chain is its own mean: it has no distance from it, but for round-off.
    several = ((weight > 0).view(nodes, -1).sum(1) > 1).repeat_interleave(len(weight) // nodes)
    jump = torch.where(several, _square(away) - _square(_centred(start.position, weight, nodes)), 0.0)
    speed = 2 * row_dot(away, torch.where(along_rows(fine, away), info.momentum, 0.0))
    climb = torch.where(fine, end.score - start.score, 0.0)
    rise = row_dot(torch.where(along_rows(fine, away), end.gradient, 0.0), info.momentum.nan_to_num())
    # A score may be large: in units of its own jumps its square stays finite in float32.
    scale = climb.abs().view(nodes, -1).amax(1).clamp(min=_TINY).repeat_interleave(len(climb) // nodes)
    pairs = ((jump, speed), (climb / scale, rise / scale))
    total = weight.view(nodes, -1).sum(1).clamp(min=_TINY)

    def mean(values: Tensor) -> Tensor:
        return (weight * values).view(nodes, -1).sum(1) / total

    return (
        torch.stack([mean(change.square()) for change, _ in pairs]),
        torch.stack([mean(2 * change * rate * info.length) for change, rate in pairs]),
    )


def _centred(position: Tensor, weight: Tensor, nodes: int) -> Tensor:
    """Return positions less the weighted mean of their node's; those of weight 0 become 0."""
    by_node = torch.where(along_rows(weight > 0, position), position, 0.0).view(nodes, -1, *position.shape[1:])
    weights = weight.view(nodes, -1, *([1] * (position.dim() - 1)))
    mean = (weights * by_node).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=_TINY)
    return (by_node - mean).view_as(position)


def _square(position: Tensor) -> Tensor:
    return row_dot(position, position)
