"""How fast a unit's work goes here: its own chains are moved under a clock, as sampling moves them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch

from raygen.hmc import Trace, diagnose
from raygen.notation import Node
from raygen.process import PeakMemory
from raygen.sampling import Batch, BatchState, SamplingSettings, UnitSampler
from raygen.store import Unit

_TRAJECTORY = 0.5
"""Seconds of a trajectory up to which a batch is made larger, until it is the unit's own."""

_PILOT = 1.0
"""Seconds of trajectories that show how long they become in warm-up."""

_FEWEST = 16
"""Trajectories of a warm-up under which it shows nothing."""

_DRAWN = 8
"""Trajectories after warm-up whose time is taken."""

_LOOKED = 4
"""Nodes of a unit among which one is looked for that is not dead."""

_LENGTH = 400
"""Trajectories of a trace that is looked at, at most: the time of a longer one grows with it."""

_Result = TypeVar("_Result")
_Given = ParamSpec("_Given")


@dataclass(frozen=True)
class Speed:
    """What a unit's work costs, in seconds.

    Attributes:
        rows: chains that shared a pass where it was measured.
        per_warm_up, per_trajectory: of one chain, in warm-up and after it.
        per_dead: to see whether one node is dead.
        per_draw: to make one draw of one chain.
        per_look: to see how far one node's chains agree.
        beginning: to cut the network and make the reference, once.
        warm_steps, steps: gradients of a trajectory in warm-up and after it, on the average.
        memory: bytes of the process, or on CUDA of the device, at the peak of a unit.
    """

    rows: int
    per_warm_up: float
    per_trajectory: float
    per_dead: float
    per_draw: float
    per_look: float
    beginning: float
    warm_steps: float
    steps: float
    memory: float


@dataclass(frozen=True)
class _Timed:
    """A batch of some chains of the unit, and the seconds of its longest trajectory."""

    batch: Batch
    seconds: float

    @property
    def rows(self) -> int:
        return len(self.batch.nodes) * self.batch.streams.chains


class Meter:
    """Measures units.

    Args:
        sampler: of the run.
        device: where its chains live.
    """

    def __init__(self, sampler: UnitSampler, device: torch.device) -> None:
        self._sampler = sampler
        self._device = device

    def measure(self, unit: Unit) -> Speed:
        """Measure a unit.

        Raises:
            ScoreError: if its score is not finite where its chains start.
        """
        if self._sampler.seeks_modes:
            return self._climb(unit)
        node, tilt, beginning, per_dead = self._alive(unit.parsed)
        own = self._sampler.make_batch(unit.parsed, unit.chains)
        whole = own.capacity * unit.chains
        # One node many times: among the others may be dead ones, which are not sampled.
        timed = self._grow([node] * own.capacity, unit.chains, tilt)
        longest = _changed(timed[-1].batch, trajectory="steps")
        memory = self._memory(lambda: longest.step(longest.begin()), whole / timed[-1].rows)
        # A chain of the largest batch is as much faster than one of the pilot as its longest trajectory is.
        pilot = next((each for each in reversed(timed) if each.seconds * _FEWEST <= _PILOT), timed[0])
        share = (timed[-1].seconds / timed[-1].rows) / pilot.seconds
        warm_up, warm_steps, drawn, steps, draw = self._try(pilot)
        settings = own.settings
        return Speed(
            rows=timed[-1].rows,
            per_warm_up=warm_up * share,
            per_trajectory=drawn * share,
            per_dead=per_dead,
            per_draw=draw / pilot.rows,
            per_look=self._look(settings, unit.chains),
            beginning=beginning,
            warm_steps=warm_steps,
            steps=steps,
            memory=memory,
        )

    def _climb(self, unit: Unit) -> Speed:
        """Measure a unit whose modes are sought: a step is a trajectory of one gradient."""
        node, _, beginning, per_dead = self._alive(unit.parsed)
        count, each = 1, min(unit.chains, 2)
        while True:
            seeker = self._sampler.make_seeker([node] * count, each)
            start = seeker.begin()
            seconds = self._again(seeker.step, start)
            if (count == len(unit.nodes) and each == unit.chains) or seconds > _TRAJECTORY / 2:
                break
            count, each = _more(count, len(unit.nodes), each, unit.chains)
        rows, whole = count * each, len(unit.nodes) * unit.chains
        return Speed(
            rows=rows,
            per_warm_up=0.0,
            per_trajectory=seconds / rows,
            per_dead=per_dead,
            per_draw=seconds / rows,  # which takes a gradient as well
            per_look=0.0,
            beginning=beginning,
            warm_steps=0.0,
            steps=1.0,
            memory=self._memory(lambda: seeker.step(start), whole / rows),
        )

    def _alive(self, nodes: Sequence[Node]) -> tuple[Node, dict[str, float], float, float]:
        """Return a node, what its settings lack to be sampled, and the seconds of the beginning and to judge a node."""
        _, first = self._clock(self._sampler.find_dead, nodes[:1])
        seconds = first
        for node in nodes[:_LOOKED]:
            dead, seconds = self._clock(self._sampler.find_dead, [node])
            if not dead:
                return node, {}, max(0.0, first - seconds), seconds
        # Where the first ones are dead, their chains are moved all the same; no tilt is found for such a node.
        return nodes[0], {"tilt": 1.0}, max(0.0, first - seconds), seconds

    def _grow(self, nodes: Sequence[Node], chains: int, tilt: Mapping[str, float]) -> list[_Timed]:
        """Return ever larger batches of these nodes' chains, up to all of them or as many as can be timed in short."""
        timed: list[_Timed] = []
        count, each = 1, min(chains, 2)
        while True:
            batch = _changed(self._sampler.make_batch(nodes[:count], each), **tilt)
            longest = _changed(batch, trajectory="steps")
            state = longest.begin()
            seconds = self._again(longest.step, state)
            timed.append(_Timed(batch, seconds))
            if (count == len(nodes) and each == chains) or seconds > _TRAJECTORY / 2:
                return timed
            count, each = _more(count, len(nodes), each, chains)

    def _try(self, pilot: _Timed) -> tuple[float, float, float, float, float]:
        """Warm up, draw and keep a draw; return seconds and gradients of a trajectory in each, and the draw's seconds.

        Where the trajectories of a warm-up that shows their length would take too long, they are the longest ones.
        """
        asked = pilot.batch.settings.warm_up
        made = min(asked, max(_FEWEST, int(_PILOT / pilot.seconds)))
        if pilot.seconds * made > 2 * _PILOT:
            batch, made, drawn = _changed(pilot.batch, trajectory="steps", warm_up=min(asked, 1)), min(asked, 1), 1
        else:
            batch, drawn = _changed(pilot.batch, warm_up=made), _DRAWN
        begun = batch.begin()
        warm, warm_seconds = self._clock(_moved, batch, begun, made)
        state, seconds = self._clock(_moved, batch, warm, drawn)
        warm_steps, steps = _spent(warm), _spent(state) - _spent(warm)
        draw = self._again(self._sampler.draw, batch, state)
        return warm_seconds / max(made, 1), warm_steps / max(made, 1), seconds / drawn, steps / drawn, draw

    def _look(self, settings: SamplingSettings, chains: int) -> float:
        length = max(4, min(settings.iterations, _LENGTH))
        record = torch.randn(length, chains)
        trace = Trace(record, record.double(), torch.randn(length, chains, 4), record.sigmoid(), record.isnan(),
                      record.double())  # fmt: skip
        return self._again(diagnose, trace, chains, settings.superchains)

    def _memory(self, work: Callable[[], object], times: float) -> float:
        """Return the bytes at the peak of a trajectory, or a step, with so many times the chains that it moves."""
        if self._device.type == "cuda":
            base = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            work()
            return base + times * (torch.cuda.max_memory_allocated(self._device) - base)
        with PeakMemory() as memory:
            work()
        return memory.base + times * (memory.peak - memory.base)

    def _clock(
        self, work: Callable[_Given, _Result], *given: _Given.args, **named: _Given.kwargs
    ) -> tuple[_Result, float]:
        """Return what ``work`` returns for these arguments, and the seconds that it took."""
        start = time.perf_counter()
        result = work(*given, **named)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return result, time.perf_counter() - start

    def _again(self, work: Callable[_Given, object], *given: _Given.args, **named: _Given.kwargs) -> float:
        """Return the shorter time of two: the first may prepare what stays, and others on the machine only add."""
        return min(self._clock(work, *given, **named)[1] for _ in range(2))


def _more(count: int, nodes: int, each: int, chains: int) -> tuple[int, int]:
    """Return twice as many chains of each node, or else twice as many nodes, as far as there are some."""
    return (count, min(2 * each, chains)) if each < chains else (min(2 * count, nodes), each)


def _changed(batch: Batch, **changes: object) -> Batch:
    """Return the same chains with other settings, in one pass and without groups that share a start."""
    # A draw is due after each trajectory, and no node ends.
    alone = {"superchains": None, "budget": None, "thin": 1, "climb": 0}
    return Batch(batch.nodes, batch.density, batch.streams, batch.settings.model_copy(update=alone | changes))


def _moved(batch: Batch, state: BatchState, trajectories: int) -> BatchState:
    for _ in range(trajectories):
        state, _ = batch.step(state)
    return state


def _spent(state: BatchState) -> float:
    """Return the gradients of a chain so far, on the average."""
    (cohort,) = state.cohorts
    return float(cohort.spent.double().mean())
