"""Nodes of a unit that begin together: warmed up as one, then drawn until each of them ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from raygen.hmc import (
    ON_CPU,
    ChainState,
    Diagnostics,
    Noise,
    Parameters,
    Population,
    Record,
    StepInfo,
    Streams,
    TailMean,
    Trace,
    WarmUpState,
    begin,
    current,
    diagnose,
    frozen,
    learn,
    select,
)
from raygen.sampling.draws import Draw, DrawsKept
from raygen.sampling.modes import Climb
from raygen.sampling.settings import SamplingSettings
from raygen.sampling.targets import make_tilt_rule
from raygen.tilting import Reference

_GROWTH = 8
"""Nodes are looked at after each round of trajectories, and later, since that takes the longer the longer the chains
are, whenever these have grown by an eighth."""


@dataclass(frozen=True)
class Drawing:
    """Chains after warm-up.

    Attributes:
        chains: where they are.
        parameters: frozen ones.
        kept: their draws.
        mean: of their positions.
        barrier: on the way to each chain's node, (N,).
        ancestor: the chain of its node from whose start each comes, (N,) int64.
        record: of their trajectories after warm-up.
    """

    chains: ChainState
    parameters: Parameters
    kept: DrawsKept
    mean: TailMean
    barrier: Tensor
    ancestor: Tensor = field(metadata=ON_CPU)
    record: Record = Record()  # noqa: RUF009  (an immutable value)

    def rows(self, chosen: Tensor) -> Drawing:
        """Return the chains whose numbers are ``chosen``, alone."""
        return Drawing(
            self.chains.rows(chosen), self.parameters.rows(chosen), self.kept.rows(chosen), self.mean.rows(chosen),
            self.barrier[chosen], self.ancestor[chosen], self.record.rows(chosen),
        )  # fmt: skip


@dataclass(frozen=True)
class Cohort:
    """The state of some nodes of a unit, all after the same number of trajectories; their chains lie side by side.

    One of ``climb``, ``warm`` and ``drawing`` is there.

    Attributes:
        indices: of the nodes in the unit.
        made: trajectories, those of warm-up included.
        next_look: trajectories after warm-up at which it is next asked which nodes have converged.
        spent: gradients of each chain, (N,) int64.
        warm: the chains until their parameters are frozen.
        drawing: the chains from then on.
        climb: the way to where the chains start, where that is a mode, until they are there.
    """

    indices: tuple[int, ...]
    made: int
    next_look: int
    spent: Tensor = field(metadata=ON_CPU)
    warm: WarmUpState | None
    drawing: Drawing | None = None
    climb: Climb | None = None

    @property
    def chains(self) -> ChainState:
        """Where the chains are."""
        if self.drawing is not None:
            return self.drawing.chains
        assert self.warm is not None  # who asks for chains has seen that they do not climb
        return self.warm.chains

    def parameters(self, settings: SamplingSettings) -> Parameters:
        """Return what the next trajectory is made with."""
        if self.drawing is not None:
            return self.drawing.parameters
        assert self.warm is not None
        return current(settings.make_warm_up(), self.warm)

    def moved(
        self, settings: SamplingSettings, chains: ChainState, streams: Streams, noise: Noise, info: StepInfo
    ) -> Cohort:
        """Return the cohort after one more trajectory, which ended at ``chains``; ``noise`` is the streams' of it."""
        made = replace(self, made=self.made + 1, spent=self.spent + info.steps)
        if self.drawing is not None:
            tilt, before = self.drawing.parameters.tilt, self.drawing.chains
            record = self.drawing.record.add(before, chains, tilt, noise, info)
            return replace(
                made,
                drawing=replace(self.drawing, chains=chains, record=record, mean=self.drawing.mean.add(chains, tilt)),
            )
        assert self.warm is not None
        plan = settings.make_warm_up()
        warm = select(plan, self.warm, learn(plan, self.warm, chains, info), streams)
        return _freeze(replace(made, warm=warm), settings)

    def draw_due(self) -> bool:
        """Whether the state where the chains are is to be kept as a draw."""
        length = len(self.drawing.record) if self.drawing is not None else 0
        return self.drawing is not None and length > 0 and self.drawing.kept.due(length)

    def with_draw(self, draw: Draw, settings: SamplingSettings) -> Cohort:
        """Return the cohort with one more draw, that was due."""
        assert self.drawing is not None
        return replace(self, drawing=replace(self.drawing, kept=self.drawing.kept.add(draw, settings.draws)))


@dataclass(frozen=True)
class EndedNodes:
    """Nodes whose chains ended together; the chains lie side by side.

    Attributes:
        indices: of the nodes in the unit.
        trace: after warm-up.
        parameters: frozen ones.
        draws: those kept.
        means: mean positions over the last part of the trajectories, (N, ...).
        gradients: of each chain, warm-up included, (N,) int64.
        barrier: on the way to each node.
        ancestor: the chain of its node from whose start each chain comes, (N,) int64.
        diagnostics, converged: of each node, over the whole trace.
    """

    indices: tuple[int, ...]
    trace: Trace
    parameters: Parameters
    draws: tuple[Draw, ...]
    means: Tensor
    gradients: Tensor
    barrier: tuple[float, ...]
    ancestor: Tensor
    diagnostics: tuple[Diagnostics, ...]
    converged: tuple[bool, ...]


def begin_cohort(
    indices: tuple[int, ...], chains: ChainState, reference: Reference, settings: SamplingSettings, *, spent: int = 0
) -> Cohort:
    """Return the cohort of nodes whose chains start there, after so many gradients.

    Raises:
        ScoreError: if a gradient is not finite.
    """
    rule = make_tilt_rule(settings, reference, chains.gradient, len(indices))
    warm = begin(settings.make_warm_up(), settings.make_kernel(), chains, rule)
    before = torch.full((len(chains.score),), spent, dtype=torch.int64)
    return _freeze(Cohort(indices, 0, settings.iterations, before, warm), settings)


def climbing_cohort(indices: tuple[int, ...], climb: Climb, settings: SamplingSettings) -> Cohort:
    """Return the cohort of nodes whose chains are on their way to where they start."""
    spent = torch.zeros(len(climb.position), dtype=torch.int64)
    return Cohort(indices, 0, settings.iterations, spent, None, climb=climb)


def look(cohort: Cohort, settings: SamplingSettings) -> tuple[Cohort | None, EndedNodes | None]:
    """Separate the nodes that have converged, or all where the budget ends, from those that go on.

    Nothing happens until it is time to look.
    """
    drawing = cohort.drawing
    length = len(drawing.record) if drawing is not None else 0
    if drawing is None or length < cohort.next_look:
        return cohort, None
    each, trace, last = len(cohort.spent) // len(cohort.indices), drawing.record.trace, length >= settings.longest
    found = diagnose(trace, each, settings.superchains)
    # Copies of one chain agree whatever they have missed.
    several = (drawing.ancestor.view(-1, each) != drawing.ancestor.view(-1, each)[:, :1]).any(1).tolist()
    agree = [
        yes and (own or each == 1) for yes, own in zip(converged(found, trace, each, settings), several, strict=True)
    ]
    later = _next_look(length, settings)
    ending = [node for node in range(len(cohort.indices)) if last or agree[node]]
    if not ending:
        return replace(cohort, next_look=later), None
    rows = _rows(ending, each)
    ended = EndedNodes(
        indices=tuple(cohort.indices[node] for node in ending),
        trace=trace.rows(rows),
        parameters=drawing.parameters.rows(rows),
        draws=tuple(draw.rows(rows) for draw in drawing.kept.spread(settings.draws)),
        means=drawing.mean.mean(drawing.parameters.tilt)[rows],
        gradients=cohort.spent[rows],
        barrier=tuple(drawing.barrier[rows[::each]].tolist()),
        ancestor=drawing.ancestor[rows],
        diagnostics=tuple(found[node] for node in ending),
        converged=tuple(agree[node] for node in ending),
    )
    staying = [node for node in range(len(cohort.indices)) if node not in ending]
    rows, indices = _rows(staying, each), tuple(cohort.indices[node] for node in staying)
    rest = Cohort(indices, cohort.made, later, cohort.spent[rows], None, drawing.rows(rows)) if staying else None
    return rest, ended


def converged(found: Sequence[Diagnostics], trace: Trace, chains: int, settings: SamplingSettings) -> list[bool]:
    """Return whether each node has converged: R-hat and effective sample size of the score, R-hat of the projections.

    With superchains, nested R-hat takes R-hat's place, on the score and the projections alike. R-hat asks each chain
    to be long: at stationarity it still exceeds 1 by about half the inverse of a chain's own effective sample size.
    Nested R-hat asks that of a superchain, so that short chains may be many instead (Margossian et al. 2024).

    Args:
        found: diagnostics of each node.
        trace: that they are of.
        chains: of each node.
        settings: the superchains and the limits.
    """
    if settings.superchains is None:
        return [node.converged(r_hat=settings.r_hat, ess=settings.ess) for node in found]
    nested = [[node.r_hat_nested for node in found]]
    for axis in range(trace.projections.shape[2]):
        along = replace(trace, score=trace.projections[:, :, axis], projections=trace.projections[:, :, :1])
        nested.append([node.r_hat_nested for node in diagnose(along, chains, settings.superchains)])
    return [
        node.ess_bulk >= settings.ess and all(ratios[index] <= settings.r_hat for ratios in nested)
        for index, node in enumerate(found)
    ]


def most_looks(settings: SamplingSettings) -> int:
    """Return how often it is asked whether a node has converged, at most."""
    looks, length = 1, settings.iterations
    while length < settings.longest:
        looks, length = looks + 1, _next_look(length, settings)
    return looks


def _next_look(length: int, settings: SamplingSettings) -> int:
    """Return the trajectories after warm-up at which the next look is; the last one is at the budget's end."""
    return min(length + max(settings.iterations, length // _GROWTH), settings.longest)


def _freeze(cohort: Cohort, settings: SamplingSettings) -> Cohort:
    """Return the cohort with frozen parameters, where its warm-up is over."""
    if cohort.warm is None or cohort.made < settings.warm_up:
        return cohort
    chains = cohort.warm.chains
    each = len(cohort.spent) // len(cohort.indices)
    barrier = cohort.warm.barrier.value.repeat_interleave(each)
    population = cohort.warm.population or Population.begin(chains.score, len(cohort.indices))
    drawing = Drawing(chains, frozen(cohort.warm), DrawsKept(settings.thin), TailMean.begin(chains), barrier,
                      population.ancestor)  # fmt: skip
    return replace(cohort, warm=None, drawing=drawing)


def _rows(nodes: list[int], chains: int) -> Tensor:
    """Return the numbers of the chains of some of a cohort's nodes."""
    return (torch.tensor(nodes, dtype=torch.int64)[:, None] * chains + torch.arange(chains)).flatten()
