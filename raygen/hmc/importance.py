"""log Z of tilted references by annealed importance sampling (Neal 2001): log E_q[exp(b f)] of each node.

A chain starts from an exact draw of the reference N(0, I) and climbs a ladder of tilts 0 = b_0 < ... < b_T = b. On each
rung its log weight grows by (b_k - b_{k-1}) f, then it is moved by a kernel that leaves the density of tilt b_k
invariant. The mean of the weights is an unbiased estimate of Z, however badly the kernel mixes, so long as ladder and
step sizes are constants to the chains that are weighted: nothing adapts here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raygen.errors import SettingsError
from raygen.hmc.kernel import Kernel
from raygen.hmc.ladder import Annealing, Ladder, at_rest, find_ladder
from raygen.hmc.state import ChainState, Parameters, ScoreFunction
from raygen.hmc.streams import Noise, Streams


@dataclass(frozen=True)
class LogNormaliser:
    """The estimate of each node's log Z, with what it is worth. Shapes (nodes,), float64, unless said otherwise.

    Attributes:
        log_z: log of the mean weight; minus infinity where no chain has a finite score. The mean weight is unbiased,
            so its log falls short by half the squared standard error, to first order.
        standard_error: of log_z by the delta method, over the chains of the node, which are independent; NaN for one
            chain or without a weight. Above 0.5 or so neither it nor log_z is to be trusted.
        ess: effective sample size of the weights, (sum w)^2 / sum w^2; 0 to the number of chains.
        log_weights: shape (nodes, chains).
        dead: chains whose start has no finite score, int64; their weight is zero.
        acceptance_rate: mean acceptance probability of the other chains on the ladder; NaN without moves.
        divergences: trajectories of theirs that diverged, int64.
        ladder: the tilts and step sizes.
        gradients: of one weighted chain.
    """

    log_z: Tensor
    standard_error: Tensor
    ess: Tensor
    log_weights: Tensor
    dead: Tensor
    acceptance_rate: Tensor
    divergences: Tensor
    ladder: Ladder
    gradients: int


@dataclass(frozen=True)
class Weighing:
    """Where the weighted chains stand on their ladder; enough to continue from.

    Attributes:
        rung: how many are done.
        chains: after the moves on it.
        log_weight, acceptance: of each chain so far; the latter a sum over its trajectories; (N,) float64.
        divergences: (N,) int64.
    """

    rung: int
    chains: ChainState
    log_weight: Tensor
    acceptance: Tensor
    divergences: Tensor


def log_normaliser(
    plan: Annealing, kernel: Kernel, score: ScoreFunction, streams: Streams, tilt: Tensor, shape: tuple[int, ...]
) -> LogNormaliser:
    """Find each node's ladder with pilot chains, then estimate log Z with others.

    Args:
        plan: how to go from the reference to the tilt.
        kernel: what moves the chains; adjusted.
        score: f, of nodes * chains rows.
        streams: of random numbers, one a node.
        tilt: b of each node, shape (nodes,).
        shape: of one position.

    Raises:
        SettingsError: if a tilt is not above 0 and finite, the kernel is unadjusted, or the tilt cannot be reached.
    """
    _check(kernel)
    ladder = find_ladder(plan, kernel, score, streams, tilt, shape)
    return weigh(kernel, score, streams, ladder, shape, moves=plan.moves)


def weigh(
    kernel: Kernel,
    score: ScoreFunction,
    streams: Streams,
    ladder: Ladder,
    shape: tuple[int, ...],
    *,
    moves: int = 1,
    start: Weighing | None = None,
    on_rung: Callable[[Weighing], None] | None = None,
) -> LogNormaliser:
    """Estimate log Z along a fixed ladder, which must not stem from the chains of ``streams``.

    Args:
        kernel: what moves the chains; adjusted.
        score: f, of nodes * chains rows.
        streams: of random numbers, one a node; the same numbers are drawn each time.
        ladder: tilts and step sizes.
        shape: of one position.
        moves: steps of the kernel on each rung.
        start: where to continue; None at the beginning.
        on_rung: told where the chains stand after each rung.

    Raises:
        SettingsError: if the kernel is unadjusted, since it leaves no rung's density invariant.
    """
    _check(kernel)
    nodes, rungs = ladder.tilt.shape[0], ladder.tilt.shape[1] - 1
    own = replace(streams, keys=tuple(f"{key}/log Z" for key in streams.keys))
    if start is None:
        chains = at_rest(score, own.start(shape))
        none = torch.zeros_like(chains.score, dtype=torch.float64)
        start = Weighing(0, chains, none, none, none.long())
    # The kernel's tilts are of the chains' precision: the weights must know of the same ones.
    tilt, step_size = (column.to(start.chains.score).repeat_interleave(own.chains, 0)
                       for column in (ladder.tilt, ladder.step_size))  # fmt: skip
    state, alive = start, start.chains.score.isfinite()  # a chain without a finite score never moves
    for rung in range(start.rung + 1, rungs + 1):
        rise = tilt[:, rung].double() - tilt[:, rung - 1].double()
        log_weight = state.log_weight + torch.where(alive, rise * state.chains.score.double(), -math.inf)
        state = replace(state, rung=rung, log_weight=log_weight)
        for move in range(moves if rung < rungs else 0):
            noise = own.noise((rung - 1) * moves + move, shape)
            state = _move(state, kernel, Parameters(step_size[:, rung], tilt[:, rung]), score, noise)
        if on_rung is not None:
            on_rung(state)
    return _summarise(state, alive.view(nodes, -1), ladder, kernel, (rungs - 1) * moves)


def _move(state: Weighing, kernel: Kernel, parameters: Parameters, score: ScoreFunction, noise: Noise) -> Weighing:
    chains, info = kernel.step(state.chains, parameters, score, noise)
    return replace(
        state,
        chains=chains,
        acceptance=state.acceptance + info.acceptance.double(),
        divergences=state.divergences + info.diverged,
    )


def _summarise(state: Weighing, living: Tensor, ladder: Ladder, kernel: Kernel, trajectories: int) -> LogNormaliser:
    """Return each node's estimate from its chains, those ``living`` (nodes, chains), after so many trajectories."""
    log_weights, acceptance, divergences = (
        column.view(living.shape) for column in (state.log_weight, state.acceptance, state.divergences)
    )
    log_z, standard_error, ess = _estimate(log_weights)
    return LogNormaliser(
        log_z=log_z,
        standard_error=standard_error,
        ess=ess,
        log_weights=log_weights,
        dead=(~living).sum(1),
        acceptance_rate=(acceptance * living).sum(1) / (living.sum(1) * trajectories),
        divergences=(divergences * living).sum(1),
        ladder=ladder,
        gradients=1 + trajectories * kernel.steps,
    )


def _estimate(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log of the mean weight of each row, its standard error, and the effective sample size."""
    count = log_weights.shape[1]
    log_sum = log_weights.logsumexp(1)
    ess = (2 * log_sum - (2 * log_weights).logsumexp(1)).exp().nan_to_num(nan=0.0).clamp(max=count)
    # Delta method: deviation of the mean over the mean, with sum (w - mean)^2 = (count / ess - 1) count mean^2.
    variance = (count / ess - 1) / (count - 1) if count > 1 else torch.full_like(ess, math.nan)
    standard_error = torch.where(ess > 0, variance.sqrt(), math.nan)
    return log_sum - math.log(count), standard_error, ess


def _check(kernel: Kernel) -> None:
    if not kernel.adjusted:
        raise SettingsError("adjusted = False, an unadjusted kernel, gives a biased log Z", where="log Z",
                            right="give an adjusted kernel")  # fmt: skip
