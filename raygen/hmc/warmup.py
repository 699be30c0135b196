"""Warm-up: chains find their typical set while step sizes and tilts are found; then both are frozen.

Three phases, as fractions of the iterations: the tilt is annealed in from zero, held at its full value while its rule
still learns, and frozen at the end. Step sizes follow an acceptance rate all the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from raygen.hmc.kernel import Kernel
from raygen.hmc.population import Population
from raygen.hmc.state import ChainState, Parameters, ScoreFunction, StepInfo
from raygen.hmc.streams import Streams
from raygen.hmc.trajectory import TrajectoryLength

_FROZEN_FROM = 0.9
"""Fraction of warm-up after which the tilt is frozen: as late as lets the step size follow, as chains still climb."""

_RISE = 10
"""Trajectories that the tilt must take to rise, at least, for the barrier on the way to be measured."""

_ANGLE = math.pi / 2
"""A rotation by a right angle replaces the position by the momentum: a longer trajectory turns back."""

_FIRST_GAIN = 2.0
"""Change of the log step size per unit of acceptance, until the rate is passed for the first time."""

_LEAST_GAIN = 0.5
"""The same in the end: with it the steps vary by a tenth or so, as a node's few chains measure the rate coarsely."""

_DECAY = 5
"""Polynomial decay of the average of step sizes (Shamir & Zhang 2013): it looks back on the last sixth or so."""


class TiltRule(Protocol):
    """What decides the tilt b of each node: a fixed number, or something measured during warm-up."""

    @property
    def tilt(self) -> Tensor:
        """The tilt of each node as of now, shape (nodes,)."""
        ...

    def observe(self, gradient: Tensor) -> Self:
        """Take in the gradients of f at the chains' positions, shape (nodes * chains, ...)."""
        ...


@dataclass(frozen=True)
class WarmUp:
    """How to warm up.

    Attributes:
        iterations: trajectories.
        anneal: fraction of them over which the tilt rises from zero.
        acceptance: rate that the step size is driven to; ignored where the step size is given.
        step_size: a fixed step size, or None to have it adapted.
        each_chain: adapt the step size for every chain, not for every node.
        angle: length of a trajectory in radians, which gives its steps from the step size, at most the kernel's; None
            always takes the kernel's steps.
        chees: whether the length is adapted for each node, from ``angle`` on.
        resample: whether chains that fall behind give way to copies of those ahead.
    """

    iterations: int = 100
    anneal: float = 0.4
    acceptance: float = 0.65
    step_size: float | None = None
    each_chain: bool = False
    angle: float | None = None
    chees: bool = False
    resample: bool = False


@dataclass(frozen=True)
class WarmUpState:
    """Where warm-up is after ``iteration`` trajectories; enough to continue from."""

    iteration: int
    chains: ChainState
    step_size: StepSizeSearch
    rule: TiltRule
    barrier: Barrier
    length: TrajectoryLength | None = None
    population: Population | None = None


def begin(plan: WarmUp, kernel: Kernel, chains: ChainState, rule: TiltRule) -> WarmUpState:
    """Return the state before the first iteration."""
    nodes, rows = rule.tilt.shape[0], chains.score.shape[0]
    unit = math.sqrt(kernel.mass)
    longest = _ANGLE if plan.angle is None or plan.chees else plan.angle
    largest = unit * (longest if plan.angle is not None else longest / kernel.steps)
    # Without a tilt the rotation is exact: its search starts at the largest step and comes down with the annealing.
    # The leapfrog must resolve the reference itself, whose frequency is 1.
    first = plan.step_size or (largest if kernel.integrator == "rotation" else 0.1 * largest)
    groups = rows if plan.each_chain else nodes
    averaging = StepSizeSearch.begin(chains.score.new_full((groups,), first), target=plan.acceptance,
                                    largest=max(largest, first))  # fmt: skip
    length = None
    if plan.angle is not None:
        length = TrajectoryLength.begin(nodes, chains.score, length=unit * plan.angle, longest=unit * longest,
                                        most_steps=kernel.steps)  # fmt: skip
    barrier = Barrier.begin(chains.score, nodes, measured=plan.anneal * plan.iterations >= _RISE)
    population = Population.begin(chains.score, nodes) if plan.resample else None
    return WarmUpState(0, chains, averaging, rule, barrier, length, population)


def advance(
    plan: WarmUp, kernel: Kernel, score: ScoreFunction, streams: Streams, state: WarmUpState
) -> tuple[WarmUpState, StepInfo]:
    """Make one iteration of warm-up."""
    noise = streams.noise(state.iteration, state.chains.position.shape[1:])
    chains, info = kernel.step(state.chains, current(plan, state), score, noise)
    return select(plan, state, learn(plan, state, chains, info), streams), info


def current(plan: WarmUp, state: WarmUpState) -> Parameters:
    """Return what the next iteration is made with."""
    return _parameters(state, state.step_size.step_size, _ramp(plan, state.iteration))


def frozen(state: WarmUpState) -> Parameters:
    """Return what all iterations after warm-up are made with."""
    return _parameters(state, state.step_size.average, 1.0, frozen=True)


def learn(plan: WarmUp, state: WarmUpState, chains: ChainState, info: StepInfo) -> WarmUpState:
    """Take in an iteration that was made with the ``current`` parameters: where the chains are, and what happened."""
    averaging = state.step_size
    if plan.step_size is None:
        averaging = averaging.update(info.acceptance.view(averaging.log_step.shape[0], -1).mean(1))
    barrier = state.barrier.climb(_ramp(plan, state.iteration) * state.rule.tilt, chains.score)
    settled = state.iteration >= _FROZEN_FROM * plan.iterations
    rule = state.rule if settled else state.rule.observe(chains.gradient)
    length = state.length
    if length is not None and plan.chees:
        length = length.update(state.chains, info)
    return WarmUpState(state.iteration + 1, chains, averaging, rule, barrier, length, state.population)


def select(plan: WarmUp, before: WarmUpState, after: WarmUpState, streams: Streams) -> WarmUpState:
    """Let chains that fall behind give way, once an iteration has led from ``before`` to ``after``.

    Args:
        plan: of both.
        before: the state, whose tilt the chains have moved at.
        after: what was learnt from it, whose tilt they move at next.
        streams: of the chains.
    """
    if after.population is None:
        return after
    change = current(plan, after).tilt - current(plan, before).tilt
    weighed = after.population.weigh(change, after.chains.score)
    population, chosen = weighed.select(streams.selection(before.iteration), last=after.iteration == plan.iterations)
    if chosen is None:
        return replace(after, population=population)
    averaging = after.step_size.rows(chosen) if plan.each_chain else after.step_size
    return replace(after, population=population, chains=after.chains.rows(chosen), step_size=averaging)


def warm_up(
    plan: WarmUp,
    kernel: Kernel,
    score: ScoreFunction,
    streams: Streams,
    state: WarmUpState,
    on_step: Callable[[WarmUpState, StepInfo], None] | None = None,
) -> tuple[ChainState, Parameters]:
    """Make the iterations that ``state`` still lacks; return the chains and the frozen parameters."""
    while state.iteration < plan.iterations:
        state, info = advance(plan, kernel, score, streams, state)
        if on_step is not None:
            on_step(state, info)
    return state.chains, frozen(state)


def _ramp(plan: WarmUp, iteration: int) -> float:
    annealed = plan.anneal * plan.iterations
    return min(1.0, (iteration + 1) / annealed) if annealed > 0 else 1.0


def _parameters(state: WarmUpState, step_size: Tensor, ramp: float, *, frozen: bool = False) -> Parameters:
    rows = state.chains.score.shape[0]
    tilt, steps = state.rule.tilt, None
    each = step_size.repeat_interleave(rows // step_size.shape[0])
    if state.length is not None and frozen:
        each, steps = state.length.frozen(each)
    elif state.length is not None:
        steps = state.length.steps(each)
    return Parameters(each, ramp * tilt.repeat_interleave(rows // tilt.shape[0]), steps)


@dataclass(frozen=True)
class Barrier:
    """The communication barrier between the reference and each node's target: how hard the way is.

    Lambda is the integral over the tilt, from 0 to b, of E|f(X) - f(X')| / 2, where X and X' are independent samples at
    that tilt (Syed et al. 2022, section 4.2). Parallel tempering with n rungs swaps at a rate of about 1 - Lambda / n;
    about 2 Lambda rungs are best. Here X and X' are a node's chains as the tilt rises, so chains that lag behind
    make it larger than it is.

    Attributes:
        value: Lambda up to ``tilt``, shape (nodes,); not a number where it is not measured.
        tilt: of each node so far, shape (nodes,).
    """

    value: Tensor
    tilt: Tensor

    @classmethod
    def begin(cls, score: Tensor, nodes: int, *, measured: bool) -> Barrier:
        """Begin at tilt 0, for chains of so many nodes with ``score`` (N,); a single chain measures nothing."""
        known = measured and len(score) > nodes
        return cls(score.new_full((nodes,), 0.0 if known else math.nan), score.new_zeros(nodes))

    def climb(self, tilt: Tensor, score: Tensor) -> Barrier:
        """Take in the chains' scores (N,) at the next ``tilt`` (nodes,).

        Where the tilt falls again, since its rule has learnt, the barrier falls in proportion.
        """
        found = score.view(len(tilt), -1).sort(1).values
        chains = found.shape[1]
        ranks = torch.arange(1 - chains, chains, 2, dtype=found.dtype, device=found.device)
        # The mean over all pairs of |f - f'|, from the scores in their order.
        apart = 2 * (found * ranks).sum(1) / max(1, chains * (chains - 1))
        risen = self.value + 0.5 * apart * (tilt - self.tilt)
        return Barrier(torch.where(tilt < self.tilt, self.value * (tilt / self.tilt), risen), tilt)


@dataclass(frozen=True)
class StepSizeSearch:
    """The step sizes of G groups of chains, each driven to the same acceptance rate.

    Stochastic approximation of the log of the step size. Its gain falls each time that a group passes the rate, so that
    a start far off is left fast (Kesten 1958; Delyon & Juditsky 1993), but never to nothing, since the target moves.
    Dual averaging (Hoffman & Gelman 2014) was tried: made for thousands of iterations, its steps varied five-fold from
    one of a hundred to the next, and every third trajectory was rejected or made in steps too small.

    Attributes:
        log_step: log of the step size to be tried next, shape (G,).
        log_average: log of the weighted average of those tried, which is what is frozen in the end, shape (G,).
        side: 1 where the last acceptance was above the target, else -1; 0 before the first, shape (G,).
        passed: how often that has changed, shape (G,).
        count: updates so far.
        target: acceptance rate to reach, in 0..1.
        largest: step size never exceeded.
    """

    log_step: Tensor
    log_average: Tensor
    side: Tensor
    passed: Tensor
    count: int
    target: float
    largest: float

    @classmethod
    def begin(cls, step_size: Tensor, *, target: float, largest: float) -> StepSizeSearch:
        """Begin at ``step_size`` (G,), but at most at ``largest``."""
        log_step = step_size.log().clamp(max=math.log(largest))
        zero = torch.zeros_like(log_step)
        return cls(log_step, log_step, zero, zero, 0, target, largest)

    def update(self, acceptance: Tensor) -> StepSizeSearch:
        """Take in the mean acceptance probability of each group in the last step, shape (G,)."""
        count = self.count + 1
        error = acceptance - self.target
        side = torch.where(error > 0, 1.0, -1.0).to(error)
        passed = self.passed + (side * self.side < 0)
        gain = (_FIRST_GAIN / (1 + passed)).clamp(min=_LEAST_GAIN)
        log_step = (self.log_step + gain * error).clamp(max=math.log(self.largest))
        weight = (1 + _DECAY) / (count + _DECAY)
        log_average = (1 - weight) * self.log_average + weight * log_step
        return replace(self, log_step=log_step, log_average=log_average, side=side, passed=passed, count=count)

    def rows(self, chosen: Tensor) -> StepSizeSearch:
        """Return the step sizes of the groups whose numbers are ``chosen``."""
        return replace(self, log_step=self.log_step[chosen], log_average=self.log_average[chosen],
                       side=self.side[chosen], passed=self.passed[chosen])  # fmt: skip

    @property
    def step_size(self) -> Tensor:
        """The step size to be tried next, shape (G,)."""
        return self.log_step.exp()

    @property
    def average(self) -> Tensor:
        """The step size to be frozen, shape (G,)."""
        return self.log_average.exp()
