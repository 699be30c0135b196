"""Deterministic, reversible, volume-preserving maps of position and momentum.

Each takes L steps and L gradients (the first is the state's, cached) and returns the end of the trajectory with the
*work*: the change of |z|^2/2 + |p|^2/2. The energy error of a trajectory is that work less b times the change of f.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from raygen.hmc.state import ChainState, Parameters, ScoreFunction, along_rows, row_dot


@dataclass(frozen=True)
class Trajectory:
    """Where a trajectory ends.

    Attributes:
        end: the proposal, its score and gradient.
        momentum: at the end, shaped as the position.
        work: change of (|z|^2 + |p|^2) / 2 along the way, shape (N,).
    """

    end: ChainState
    momentum: Tensor
    work: Tensor


class Integrator(Protocol):
    """A map from one end of a trajectory to the other."""

    def __call__(
        self, score: ScoreFunction, start: ChainState, momentum: Tensor, parameters: Parameters, steps: int
    ) -> Trajectory:
        """Follow the flow for ``steps`` steps of ``parameters.step_size`` from ``start`` with ``momentum``."""
        ...


def rotation(
    score: ScoreFunction, start: ChainState, momentum: Tensor, parameters: Parameters, steps: int
) -> Trajectory:
    """Kicks by the tilt's force and, between them, the exact flow of the reference (Beskos et al. 2011; Shahbaba 2014).

    The flow of N(0, I) is the rotation (z, p) <- (z cos e + p sin e, p cos e - z sin e), so that the step size is
    limited by the tilt alone and does not shrink with the dimension.

    The work is summed kick by kick, force times mean momentum, rather than taken as the difference of two norms. In
    exact arithmetic the rotation does no work; in float32 cos^2 + sin^2 is off 1 by some 1e-7, which scales the norm
    and the volume alike: the two cancel in the acceptance, while the norm alone would be off by 1e-7 a dimension.
    """
    z, p, gradient = start.position, momentum, start.gradient
    turn, force_scale = parameters.step_size, parameters.tilt * parameters.step_size
    cosine, sine = along_rows(turn.cos(), z), along_rows(turn.sin(), z)
    value = start.score
    p, work = _kick(p, gradient, 0.5 * force_scale)
    for step in range(1, steps + 1):
        z, p = z * cosine + p * sine, p * cosine - z * sine
        value, gradient = _evaluate(score, z, last=step == steps)
        p, done = _kick(p, gradient, force_scale if step < steps else 0.5 * force_scale)
        work = work + done
    return Trajectory(ChainState(z, value, gradient), p, work)


def leapfrog(
    score: ScoreFunction, start: ChainState, momentum: Tensor, parameters: Parameters, steps: int
) -> Trajectory:
    """Kicks by the whole force b grad f - z and, between them, straight drifts: the paper's integrator (section 3.4).

    A particle mass m in image coordinates x = sigma z and a step e there are a step e / (sigma sqrt(m)) here.
    """
    z, p, gradient = start.position, momentum, start.gradient
    turn = along_rows(parameters.step_size, z)
    tilt = along_rows(parameters.tilt, z)
    value = start.score
    p = p + 0.5 * turn * (tilt * gradient - z)
    for step in range(1, steps + 1):
        z = z + turn * p
        value, gradient = _evaluate(score, z, last=step == steps)
        p = p + (turn if step < steps else 0.5 * turn) * (tilt * gradient - z)
    work = 0.5 * (_norm_change(z, start.position) + _norm_change(p, momentum))
    return Trajectory(ChainState(z, value, gradient), p, work)


INTEGRATORS: dict[str, Integrator] = {
    "rotation": rotation,
    "leapfrog": leapfrog,
}


def follow(
    integrator: Integrator, score: ScoreFunction, start: ChainState, momentum: Tensor, parameters: Parameters,
    steps: Tensor,
) -> Trajectory:  # fmt: skip
    """Follow the flow for each row's own number of ``steps``, shape (N,), int64.

    All rows go together until the shortest have arrived, then the others go on from there: the half kick that ended
    one piece and the half kick that begins the next make a whole one. So no row is evaluated in vain, but for one value
    at the end of each piece where forces are cheap.
    """
    lengths = sorted(set(steps.tolist()))
    trajectory = integrator(score, start, momentum, parameters, lengths[0])
    if len(lengths) == 1:
        return trajectory
    end, p, work = trajectory.end, trajectory.momentum, trajectory.work
    for before, length in pairwise(lengths):
        chosen = (steps >= length).to(work.device)
        piece = integrator(score.rows(chosen), end.rows(chosen), p[chosen], parameters.rows(chosen), length - before)
        on = chosen.nonzero()[:, 0]
        end = ChainState(
            end.position.index_copy(0, on, piece.end.position),
            end.score.index_copy(0, on, piece.end.score),
            end.gradient.index_copy(0, on, piece.end.gradient),
        )
        p, work = p.index_copy(0, on, piece.momentum), work.index_add(0, on, piece.work)
    return Trajectory(end, p, work)


def _evaluate(score: ScoreFunction, z: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
    """Return f and its gradient; f only has to be right at the end of the trajectory, where the acceptance reads it."""
    if not score.cheap_forces:
        return score.value_and_gradient(z)
    return (score.value(z) if last else z.new_empty(0)), score.gradient(z)


def _kick(momentum: Tensor, gradient: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return p + s g and the work s g . (p + s g / 2), row by row."""
    kicked = torch.addcmul(momentum, along_rows(scale, momentum), gradient)
    return kicked, 0.5 * scale * (row_dot(gradient, momentum) + row_dot(gradient, kicked))


def _norm_change(end: Tensor, start: Tensor) -> Tensor:
    # |end|^2 - |start|^2 without subtracting two large numbers, summed in float64.
    return ((end - start) * (end + start)).flatten(1).sum(1, dtype=torch.float64).to(end.dtype)
