"""A unit's chains on their way: those of nodes that began at different times share every pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from raygen.errors import ScoreError, StoreError
from raygen.hmc import ChainState, Noise, Parameters, StepInfo, Streams, Tensors, under, within
from raygen.nodes import Node
from raygen.sampling.cohort import Cohort, Keep, Stopped
from raygen.sampling.settings import SamplingSettings
from raygen.tilting import WhitenedScore


class Batch:
    """The chains of a unit's nodes. Where there is a budget, as many nodes as fit go first, the others wait in line.

    Which nodes share a pass depends on what is asked and on the samples alone.

    Args:
        nodes: of one layer and ending.
        density: of all their chains, side by side.
        streams: of their random numbers.
        settings: of the unit.
        keep: makes draws; None where none are wanted.
    """

    def __init__(
        self, nodes: Sequence[Node], density: WhitenedScore, streams: Streams, settings: SamplingSettings,
        keep: Keep | None,
    ) -> None:  # fmt: skip
        self._nodes = nodes
        self._density = density
        self._streams = streams
        self._settings = settings
        self._keep = keep
        self._kernel = settings.make_kernel()
        self._places = room(settings, len(nodes), streams.chains)
        self._admitted = 0
        self._cohorts: list[Cohort] = []
        self._score: WhitenedScore | None = None

    @property
    def finished(self) -> bool:
        """Whether all nodes have stopped."""
        return not self._cohorts and self._admitted == len(self._nodes)

    @property
    def fraction(self) -> float:
        """Of the trajectories made; those that a node no longer needs count as made."""
        whole = self._settings.warm_up + self._settings.longest
        missing = sum(len(cohort.places) * (whole - cohort.made) for cohort in self._cohorts)
        missing += (len(self._nodes) - self._admitted) * whole
        return 1 - missing / (whole * len(self._nodes))

    def step(self) -> float:
        """Make one trajectory of every chain in hand, and return the mean acceptance probability.

        Raises:
            ScoreError: naming the node, if its score is not finite, or has no gradient, where its chains start.
        """
        self._admit()
        asked = [cohort.ask() for cohort in self._cohorts]
        states, parameters, noises = zip(*asked, strict=True)
        state, info = self._kernel.step(_join_states(states), _join_parameters(parameters), self._scores(),
                                        _join_noises(noises))  # fmt: skip
        ends = torch.tensor([0, *(cohort.rows for cohort in self._cohorts)]).cumsum(0).tolist()
        for cohort, noise, (start, end) in zip(self._cohorts, noises, pairwise(ends), strict=True):
            cohort.tell(_own(state, start, end), _part(info, start, end), noise)
        return float(info.acceptance.mean())

    def stop(self) -> list[Stopped]:
        """Let go of the nodes that have converged, or come to the budget's end: their places are free."""
        stopped = [found for cohort in self._cohorts if (found := cohort.stop())]
        if stopped:
            self._cohorts = [cohort for cohort in self._cohorts if cohort.places]
            self._score = None
        return stopped

    def save(self) -> dict[str, Tensor]:
        """Return all that changes, as tensors by name."""
        saved = {"admitted": torch.tensor(self._admitted)}
        for index, cohort in enumerate(self._cohorts):
            saved |= under(f"cohort.{index}", cohort.save())
        return saved

    def restore(self, saved: Tensors) -> None:
        """Take up what ``save`` returned, of the same nodes and settings.

        Raises:
            KeyError, StoreError: if something is missing, or does not fit.
        """
        self._admitted = int(saved["admitted"])
        while part := within(saved, f"cohort.{len(self._cohorts)}"):
            places = tuple(part["places"].tolist())
            if not set(places) <= set(range(len(self._nodes))):
                raise StoreError("saved chains of other nodes", where="chain state", right="begin the chains anew")
            self._cohorts.append(self._begin(places))
            self._cohorts[-1].restore(part)

    def _admit(self) -> None:
        free = self._places - sum(len(cohort.places) for cohort in self._cohorts)
        new = tuple(range(self._admitted, min(self._admitted + free, len(self._nodes))))
        if new:
            self._cohorts.append(self._begin(new))
            self._admitted += len(new)
            self._score = None

    def _begin(self, places: tuple[int, ...]) -> Cohort:
        streams = replace(self._streams, keys=tuple(self._streams.keys[place] for place in places))
        shape, superchains = self._density.reference.shape, self._settings.superchains
        try:
            chains = self._kernel.init(self._of(places), streams.start(shape, superchains))
            return Cohort(places, streams, self._settings, chains, self._density.reference, self._keep)
        except ScoreError as error:
            if error.row is None:
                raise
            node = self._nodes[places[error.row // streams.chains]]
            raise ScoreError(error.what, where=f"node {node}", right=error.right) from None

    def _scores(self) -> WhitenedScore:
        """Return the density of the chains in hand, in their order."""
        if self._score is None:
            self._score = self._of(tuple(place for cohort in self._cohorts for place in cohort.places))
        return self._score

    def _of(self, places: tuple[int, ...]) -> WhitenedScore:
        if places == tuple(range(len(self._nodes))):
            return self._density
        each = self._streams.chains
        rows = (torch.tensor(places)[:, None] * each + torch.arange(each)).flatten()
        return self._density.rows(rows.to(self._streams.device))


def room(settings: SamplingSettings, nodes: int, chains: int) -> int:
    """Return how many of a unit's nodes go at once."""
    return nodes if settings.budget is None else min(nodes, max(1, settings.batch // chains))


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
    # Numbers of steps are read by the CPU; those of a cohort that was restored lie where its chains do.
    steps = [part.steps.cpu() for part in parameters if part.steps is not None]
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
