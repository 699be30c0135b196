"""log Z of tilted references by annealed importance sampling (Neal 2001): log E_q[exp(b f)] of each node.

A chain starts from an exact draw of the reference N(0, I) and climbs a ladder of tilts 0 = b_0 < ... < b_T = b. On each
rung its log weight grows by (b_k - b_{k-1}) f, then it is moved by a kernel that leaves the density of tilt b_k
invariant. The mean of the weights is an unbiased estimate of Z, however badly the kernel mixes, so long as ladder and
step sizes are constants to the chains that are weighted: nothing adapts here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raygen.errors import SettingsError
from raygen.hmc.kernel import Kernel
from raygen.hmc.ladder import Annealing, Ladder, at_rest, find_ladder
from raygen.hmc.state import ChainState, Parameters, ScoreFunction
from raygen.hmc.streams import Streams


@dataclass(frozen=True)
class LogNormaliser:
    """The estimate of each node's log Z, with what it is worth. Shapes (nodes,), float64, unless said otherwise.

    Attributes:
        log_z: log of the mean weight; minus infinity where no chain has a finite score. The mean weight is unbiased,
            so its log falls short by half the squared standard error, to first order.
        standard_error: of log_z by the delta method, over the chains of the node, which are independent; NaN for one
            chain or without a weight. Above 0.5 or so neither it nor log_z is to be trusted.
        ess: effective sample size of the weights, (sum w)^2 / sum w^2; 0 to the number of chains.
        log_weights: shape (nodes, chains); minus infinity for a chain whose start has no finite score.
        ladder: the tilts and step sizes.
        gradients: of one weighted chain.
    """

    log_z: Tensor
    standard_error: Tensor
    ess: Tensor
    log_weights: Tensor
    ladder: Ladder
    gradients: int


@dataclass(frozen=True)
class Weighing:
    """Where the weighted chains are on their ladder; enough to continue from.

    Attributes:
        rung: how many are done.
        chains: after the move on it.
        log_weight: of each chain so far, (N,) float64.
    """

    rung: int
    chains: ChainState
    log_weight: Tensor


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
    return weigh(kernel, score, streams, find_ladder(plan, kernel, score, streams, tilt, shape), shape)


def weigh(
    kernel: Kernel, score: ScoreFunction, streams: Streams, ladder: Ladder, shape: tuple[int, ...]
) -> LogNormaliser:
    """Estimate log Z along a fixed ladder, which must not stem from the chains of ``streams``.

    Args:
        kernel: what moves the chains; adjusted.
        score: f, of nodes * chains rows.
        streams: of random numbers, one a node; the same numbers are drawn each time.
        ladder: tilts and step sizes.
        shape: of one position.

    Raises:
        SettingsError: if the kernel is unadjusted, since it leaves no rung's density invariant.
    """
    state = begin_weighing(kernel, score, streams, shape)
    while state.rung < ladder.rungs:
        state = weigh_rung(kernel, score, streams, ladder, state)
    return estimate(kernel, ladder, state)


def begin_weighing(kernel: Kernel, score: ScoreFunction, streams: Streams, shape: tuple[int, ...]) -> Weighing:
    """Return the chains at the foot of the ladder, for the arguments of :func:`weigh`.

    Raises:
        SettingsError: if the kernel is unadjusted.
    """
    _check(kernel)
    chains = at_rest(score, _own(streams).start(shape))
    return Weighing(0, chains, torch.zeros_like(chains.score, dtype=torch.float64))


def weigh_rung(kernel: Kernel, score: ScoreFunction, streams: Streams, ladder: Ladder, state: Weighing) -> Weighing:
    """Return the chains one rung further: weighted, and moved but on the last rung, where no weight follows."""
    rung, chains = state.rung + 1, state.chains

    def of_chains(column: Tensor) -> Tensor:
        # The kernel's tilts are of the chains' precision: the weights must know of the same ones.
        return column.to(chains.score).repeat_interleave(streams.chains)

    tilt = of_chains(ladder.tilt[:, rung])
    rise = tilt.double() - of_chains(ladder.tilt[:, rung - 1]).double()
    alive = chains.score.isfinite()  # a chain without a finite score never moves
    log_weight = state.log_weight + torch.where(alive, rise * chains.score.double(), -math.inf)
    if rung < ladder.rungs:
        noise = _own(streams).noise(rung - 1, chains.position.shape[1:])
        parameters = Parameters(of_chains(ladder.step_size[:, rung]), tilt)
        chains, _ = kernel.step(chains, parameters, score, noise)
    return Weighing(rung, chains, log_weight)


def estimate(kernel: Kernel, ladder: Ladder, state: Weighing) -> LogNormaliser:
    """Return what chains at the top of the ladder say of each node's log Z."""
    log_weights = state.log_weight.view(len(ladder.tilt), -1)
    return LogNormaliser(*_mean_weight(log_weights), log_weights, ladder, 1 + (ladder.rungs - 1) * kernel.steps)


def _own(streams: Streams) -> Streams:
    return replace(streams, keys=tuple(f"{key}/log Z" for key in streams.keys))


def _mean_weight(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
