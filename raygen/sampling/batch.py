"""A unit's chains on their way: those of nodes that began at different times share every pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from raygen.errors import StoreError
from raygen.hmc import ChainState, Noise, Parameters, StepInfo, Streams, TailMean, check_alike, frozen
from raygen.networks import ViewScores
from raygen.notation import Node
from raygen.sampling.cohort import Cohort, EndedNodes, begin_cohort, climbing_cohort, look
from raygen.sampling.modes import ModeSeeker, naming
from raygen.sampling.settings import SamplingSettings
from raygen.tilting import WhitenedScore

_ROUND = 8
"""Steps uphill between two states that may be saved: about as long as a trajectory."""


@dataclass(frozen=True)
class BatchState:
    """How far a unit's chains are.

    Attributes:
        begun: how many of the unit's nodes have begun; they do so in the order of the unit.
        cohorts: the nodes in flight. Those that have begun and are in none of them have ended.
    """

    begun: int = 0
    cohorts: tuple[Cohort, ...] = ()


class Batch:
    """What moves the chains of a unit's nodes. It holds only constants: states go in and come out.

    Where there is a budget, as many nodes as fit go first, the others wait in line. Which nodes share a pass depends on
    what is asked and on the samples alone.

    Args:
        nodes: of one layer and ending, in the order of the unit.
        density: of all their chains, side by side.
        streams: of their random numbers.
        settings: of the unit: the profile's go before the run's.
    """

    def __init__(
        self, nodes: Sequence[Node], density: WhitenedScore, streams: Streams, settings: SamplingSettings
    ) -> None:
        self.nodes = tuple(nodes)
        self.density = density
        self.streams = streams
        self.settings = settings
        self.kernel = settings.make_kernel()
        self._in_flight: tuple[tuple[int, ...], WhitenedScore] = (), density

    @property
    def capacity(self) -> int:
        """How many of the nodes go at once."""
        if self.settings.budget is None:
            return len(self.nodes)
        return min(len(self.nodes), max(1, self.settings.together // self.streams.chains))

    def begin(self) -> BatchState:
        """Return the first nodes' chains where they start.

        Raises:
            ScoreError: as ``step`` does.
        """
        return self._admit(BatchState())

    def step(self, state: BatchState) -> tuple[BatchState, float]:
        """Let nodes begin where there is room, then make one trajectory of every chain in flight.

        Those that are on their way to a mode, where they are to start, make some steps uphill instead.

        Returns:
            The state after it, and the mean acceptance probability; NaN where all chains climb.

        Raises:
            ScoreError: naming the node, if its score or gradient is not finite where its chains start.
        """
        state = self._admit(state)
        cohorts = [self._climbed(cohort) for cohort in state.cohorts]
        moved, acceptance = self._moved([cohort for cohort in cohorts if cohort.climb is None])
        after = iter(moved)
        cohorts = [cohort if cohort.climb is not None else next(after) for cohort in cohorts]
        return replace(state, cohorts=tuple(cohorts)), acceptance

    def _moved(self, cohorts: Sequence[Cohort]) -> tuple[list[Cohort], float]:
        """Return the cohorts after one trajectory more, in one pass, and the mean acceptance probability."""
        if not cohorts:
            return [], math.nan
        shape = self.density.reference.shape
        own = [self._of(cohort.indices) for cohort in cohorts]
        noises = [streams.noise(cohort.made, shape) for cohort, streams in zip(cohorts, own, strict=True)]
        parameters = [cohort.parameters(self.settings) for cohort in cohorts]
        chains, info = self.kernel.step(
            _join_states([cohort.chains for cohort in cohorts]), _join_parameters(parameters),
            self._score(tuple(index for cohort in cohorts for index in cohort.indices)), _join_noises(noises),
        )  # fmt: skip
        ends = torch.tensor([0, *(len(cohort.spent) for cohort in cohorts)]).cumsum(0).tolist()
        moved = [
            cohort.moved(
                self.settings, _own(chains, start, end), self._of(cohort.indices), noise, _part(info, start, end)
            )
            for cohort, noise, (start, end) in zip(cohorts, noises, pairwise(ends), strict=True)
        ]
        return moved, float(info.acceptance.mean())

    def _climbed(self, cohort: Cohort) -> Cohort:
        """Return a cohort some steps further uphill, or at its chains' start; one that climbs no more as it is."""
        if cohort.climb is None:
            return cohort
        seeker, climb = self._seeker(cohort.indices), cohort.climb
        for _ in range(min(_ROUND, seeker.steps - climb.made)):
            climb = seeker.step(climb)
        if climb.made < seeker.steps:
            return replace(cohort, climb=climb)
        return self._start_at(cohort.indices, seeker.around(climb), spent=self.settings.climb_gradients)

    def _seeker(self, indices: tuple[int, ...]) -> ModeSeeker:
        density = self.density_of(indices)
        if isinstance(density.score, ViewScores):  # each step has a view of its own
            density = WhitenedScore(density.score.plain, density.reference)
        nodes = [self.nodes[index] for index in indices]
        return ModeSeeker(nodes, density, self._of(indices), self.settings, self.settings.climb)

    def _start_at(self, indices: tuple[int, ...], positions: torch.Tensor, *, spent: int = 0) -> Cohort:
        with naming([self.nodes[index] for index in indices], self.streams.chains):
            chains = self.kernel.init(self.density_of(indices), positions)
            return begin_cohort(indices, chains, self.density.reference, self.settings, spent=spent)

    def end_nodes(self, state: BatchState) -> tuple[BatchState, list[EndedNodes]]:
        """Take out the nodes that have converged or come to the budget's end, which makes room for others."""
        looked = [look(cohort, self.settings) for cohort in state.cohorts]
        cohorts = tuple(rest for rest, _ in looked if rest is not None)
        return replace(state, cohorts=cohorts), [ended for _, ended in looked if ended is not None]

    def finished(self, state: BatchState) -> bool:
        """Whether all nodes have ended."""
        return not state.cohorts and state.begun == len(self.nodes)

    def fraction(self, state: BatchState) -> float:
        """Return the fraction of the trajectories made; those that a node no longer needs count as made."""
        whole = self.settings.warm_up + self.settings.longest
        missing = sum(len(cohort.indices) * (whole - cohort.made) for cohort in state.cohorts)
        missing += (len(self.nodes) - state.begun) * whole
        return 1 - missing / (whole * len(self.nodes))

    def check(self, state: BatchState) -> None:
        """Refuse a state of other nodes, chains or settings.

        Raises:
            StoreError: saying what does not fit.
        """
        settings = self.settings.model_copy(update={"warm_up": max(1, self.settings.warm_up)})
        reference = self.density.reference
        for cohort in state.cohorts:
            if not set(cohort.indices) <= set(range(len(self.nodes))):
                raise StoreError("saved chains of other nodes", where="chain state", right="start the chains again")
            if cohort.climb is not None:
                self._seeker(cohort.indices).check(cohort.climb)
                continue
            rows = len(cohort.indices) * self.streams.chains
            ones = torch.ones((rows, *reference.shape), device=self.streams.device)
            like = begin_cohort(cohort.indices, ChainState(ones, ones[:, 0, 0, 0], ones), reference, settings)
            if cohort.drawing is not None and like.warm is not None:
                drawing = replace(
                    cohort.drawing, chains=like.chains, parameters=frozen(like.warm),
                    mean=TailMean.begin(like.chains), barrier=like.chains.score,
                    ancestor=like.spent,
                )  # fmt: skip
                like = replace(like, warm=None, drawing=drawing)
            check_alike(cohort, like)

    def _admit(self, state: BatchState) -> BatchState:
        """Let nodes begin where there is room."""
        room = self.capacity - sum(len(cohort.indices) for cohort in state.cohorts)
        indices = tuple(range(state.begun, min(state.begun + room, len(self.nodes))))
        if not indices:
            return state
        if self.settings.climb:
            cohort = climbing_cohort(indices, self._seeker(indices).begin(), self.settings)
        else:
            start = self._of(indices).start(self.density.reference.shape, self.settings.superchains)
            cohort = self._start_at(indices, start)
        return BatchState(state.begun + len(indices), (*state.cohorts, cohort))

    def _of(self, indices: Sequence[int]) -> Streams:
        return replace(self.streams, keys=tuple(self.streams.keys[index] for index in indices))

    def _score(self, indices: tuple[int, ...]) -> WhitenedScore:
        """Return the density of the chains in flight, in their order; it is kept until others are."""
        if self._in_flight[0] != indices:
            self._in_flight = indices, self.density_of(indices)
        return self._in_flight[1]

    def density_of(self, indices: tuple[int, ...]) -> WhitenedScore:
        """Return the density of the chains of some of the nodes, by their indices."""
        if indices == tuple(range(len(self.nodes))):
            return self.density
        each = self.streams.chains
        rows = (torch.tensor(indices)[:, None] * each + torch.arange(each)).flatten()
        return self.density.rows(rows.to(self.streams.device))


def _own(state: ChainState, start: int, end: int) -> ChainState:
    """Return the chains ``start`` to ``end``, laid out in memory as chains are that were saved and restored."""
    whole = end - start == len(state.score)
    return ChainState(*(
        (part if whole else part[start:end].clone()).contiguous()
        for part in (state.position, state.score, state.gradient)
    ))  # fmt: skip


def _part(info: StepInfo, start: int, end: int) -> StepInfo:
    return StepInfo(
        acceptance=info.acceptance[start:end],
        accepted=info.accepted[start:end],
        energy_error=info.energy_error[start:end],
        diverged=info.diverged[start:end],
        steps=info.steps[start:end],
        length=info.length[start:end],
        proposal=_own(info.proposal, start, end),
        momentum=info.momentum[start:end].contiguous(),
    )


def _join_states(states: Sequence[ChainState]) -> ChainState:
    if len(states) == 1:
        return states[0]
    return ChainState(
        torch.cat([state.position for state in states]),
        torch.cat([state.score for state in states]),
        torch.cat([state.gradient for state in states]),
    )


def _join_parameters(parameters: Sequence[Parameters]) -> Parameters:
    if len(parameters) == 1:
        return parameters[0]
    steps = [part.steps for part in parameters if part.steps is not None]
    return Parameters(
        torch.cat([part.step_size for part in parameters]),
        torch.cat([part.tilt for part in parameters]),
        torch.cat(steps) if steps else None,
    )


def _join_noises(noises: Sequence[Noise]) -> Noise:
    if len(noises) == 1:
        return noises[0]
    return Noise(
        torch.cat([noise.momentum for noise in noises]),
        torch.cat([noise.acceptance for noise in noises]),
        torch.cat([noise.jitter for noise in noises]),
    )
