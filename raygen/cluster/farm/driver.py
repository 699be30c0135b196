"""The pool of actors that samples a run's units: Ray's edge of the scheduler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError, TaskCancelledError

from raygen.cluster.farm.actor import ActorKind, Progress
from raygen.cluster.farm.calls import Call, Calls
from raygen.cluster.farm.events import (
    Action,
    ActorDraining,
    ActorLost,
    ActorReady,
    Assign,
    Event,
    StartActor,
    StopActor,
    Tick,
    UnitDone,
    UnitFailed,
    UnitMoved,
)
from raygen.cluster.farm.machines import Machines, is_alive
from raygen.cluster.farm.metrics import FarmMetrics
from raygen.cluster.farm.queue import DONE, IN_FLIGHT, WAITING, UnitQueue
from raygen.cluster.farm.scheduler import Scheduler
from raygen.cluster.farm.size import PoolSize
from raygen.runs import FarmReport, Totals, UnitReport
from raygen.sampling import UnitProgress
from raygen.store import Unit

_TICK = 0.5
"""Seconds between two looks at the actors' progress."""

_ASKED = 200
"""Actors that are asked for their progress at a time, at most; of more, each has its turn."""

_AWAKE = 10.0
"""Seconds that may pass between two steps; what is more, the driver was asleep, and no actor is to blame."""

_NAMED = 100
"""Units set aside that are named, at most."""


@dataclass(slots=True)
class _Actor:
    handle: Any
    machine: str = ""  # "" until it is up
    unit: int = -1  # that it last told of
    progress: UnitProgress | None = None


class Farm:
    """Runs the units that a plan still lacks on a pool of actors.

    Actors that wait for a machine are what the autoscaler sees: it brings machines for them, and takes those away that
    are left without. (A request by ``ray.autoscaler.sdk.request_resources`` would hold for the whole cluster, overwrite
    that of another job, and outlive this one.)

    Args:
        plan: the units.
        done: 1 for each that is done, else 0.
        kind: what the actors are.
        size: how many.
        deadline: seconds without progress after which an actor is taken for hung.
        name: of the run, for the metrics.
    """

    def __init__(
        self, plan: Sequence[Unit], done: bytearray, kind: ActorKind, *, size: PoolSize, deadline: float, name: str = ""
    ) -> None:
        self._plan = plan
        self._before = done.count(1)
        queue = UnitQueue(bytearray(DONE if flag else WAITING for flag in done))
        self._scheduler = Scheduler(queue, minimum=size.minimum, maximum=size.maximum, deadline=deadline)
        self._factory, self._arguments = kind.factory(), kind.arguments
        self._actors: dict[int, _Actor] = {}
        self._turns: dict[int, None] = {}  # the actors, in the order in which they are asked
        self._calls = Calls()
        self._machines = Machines()
        self._metrics = FarmMetrics(name)
        self._layers: dict[str, Totals] = {}
        self._now, self._seen = 0.0, time.monotonic()

    def run(self, on_progress: Callable[[FarmReport], None]) -> FarmReport:
        """Work until every unit is done or set aside; return the final report. However it ends, no actor is left."""
        start = last = time.monotonic()
        try:
            self._act(self._scheduler.begin())
            while not self._scheduler.finished:
                for call, outcome in self._calls.sweep(_TICK):
                    self._settle(call, outcome)
                if time.monotonic() - last >= _TICK:
                    last = time.monotonic()
                    self._tick()
                    self._tell(on_progress, last - start)
        finally:
            for actor in self._actors.values():
                ray.kill(actor.handle)
        report = self._report(time.monotonic() - start)
        self._metrics.tell(report, 0)
        return report

    def _clock(self) -> float:
        now = time.monotonic()
        self._now += min(now - self._seen, _AWAKE)
        self._seen = now
        return self._now

    def _tick(self) -> None:
        if self._machines.look():
            for number in [number for number, actor in self._actors.items() if self._drains(actor)]:
                self._handle(ActorDraining(number, self._clock()))
        self._handle(Tick(self._clock()))
        for number in list(islice(self._turns, _ASKED)):
            self._turns[number] = self._turns.pop(number)  # to the end
            if self._actors[number].machine and not self._calls.waits_for(call := Call(number, "progress")):
                self._calls.add(call, _progress(self._actors[number].handle))

    def _drains(self, actor: _Actor) -> bool:
        return actor.machine in self._machines.draining

    # Outcomes

    def _settle(self, call: Call, outcome: Any) -> None:
        if isinstance(outcome, TaskCancelledError) or call.actor not in self._actors:
            return
        if isinstance(outcome, RayTaskError) and call.kind != "ready":
            if call.kind == "sample":
                self._handle(UnitFailed(call.actor, call.unit, _line(outcome), False, self._clock()))
        elif isinstance(outcome, RayError):
            self._lost(call.actor, outcome)
        elif call.kind == "ready":
            self._actors[call.actor].machine = outcome
            self._handle(ActorReady(call.actor, self._clock()))
            if call.actor in self._actors and self._drains(self._actors[call.actor]):
                self._handle(ActorDraining(call.actor, self._clock()))
        elif call.kind == "progress":
            self._take_progress(call.actor, outcome)
        else:
            self._take_result(call, outcome)

    def _take_progress(self, actor: int, progress: Progress) -> None:
        unit, fraction = progress[0], progress[1].fraction
        self._actors[actor].unit, self._actors[actor].progress = progress
        self._handle(UnitMoved(actor, unit, fraction, self._clock()))

    def _take_result(self, call: Call, result: UnitReport | str) -> None:
        if isinstance(result, str):
            self._handle(UnitFailed(call.actor, call.unit, result, True, self._clock()))
            return
        self._actors[call.actor].progress = None  # it is of the unit that is now done
        self._count(call.unit, result)
        self._handle(UnitDone(call.actor, call.unit, self._clock()))

    def _count(self, unit: int, report: UnitReport) -> None:
        # Of two actors that did it, the first counts.
        if self._scheduler.queue.state(unit) != DONE:
            self._layers[report.layer] = self._layers.get(report.layer, Totals()) + Totals.of(report)

    def _lost(self, number: int, error: RayError) -> None:
        actor = self._actors[number]
        finished = []
        # None of what it had finished before is to be blamed, or made again.
        for call, outcome in self._calls.drop(number):
            if call.kind == "sample" and isinstance(outcome, UnitReport):
                self._count(call.unit, outcome)
                finished.append(call.unit)
        blameless = (
            isinstance(error, ActorUnavailableError)
            or bool(getattr(error, "preempted", False))
            or (actor.machine != "" and not is_alive(actor.machine))
        )
        # It may still be alive, and must not go on with what others now have in hand.
        self._forget(number)
        self._handle(ActorLost(number, _line(error), blameless, self._clock(), tuple(finished)))

    # Actions

    def _handle(self, event: Event) -> None:
        self._act(self._scheduler.handle(event))

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, StartActor):
                handle = self._factory.remote(*self._arguments)
                self._actors[action.actor] = _Actor(handle)
                self._turns[action.actor] = None
                self._calls.add(Call(action.actor, "ready"), handle.ready.remote())
            elif isinstance(action, Assign):
                reference = self._actors[action.actor].handle.sample.remote(action.unit, self._plan[action.unit])
                self._calls.add(Call(action.actor, "sample", action.unit), reference)
            elif isinstance(action, StopActor):
                self._calls.drop(action.actor)
                self._forget(action.actor)
            else:
                self._calls.cancel(Call(action.actor, "sample", action.unit))

    def _forget(self, number: int) -> None:
        del self._turns[number]
        ray.kill(self._actors.pop(number).handle)

    # Reports

    def _tell(self, on_progress: Callable[[FarmReport], None], seconds: float) -> None:
        report = self._report(seconds)
        self._metrics.tell(report, self._scheduler.queue.in_flight)
        on_progress(report)

    def _report(self, seconds: float) -> FarmReport:
        queue = self._scheduler.queue
        return FarmReport(
            units=len(self._plan),
            before=self._before,
            layers=dict(self._layers),
            running=self._running(),
            actors=len(self._actors),
            set_aside={self._plan[unit].name: reason for unit, reason in queue.reasons(_NAMED).items()},
            seconds=seconds,
            lost=queue.set_aside,
            pending=self._scheduler.pool.pending,
        )

    def _running(self) -> tuple[UnitProgress, ...]:
        """Return how far each unit in hand is, once: of two actors at the same one, the one that is further."""
        units: dict[int, UnitProgress] = {}
        for actor in self._actors.values():
            # An actor that idles still tells of the unit that it has done.
            if actor.progress is not None and actor.unit >= 0 and self._scheduler.queue.state(actor.unit) == IN_FLIGHT:
                known = units.get(actor.unit, actor.progress)
                units[actor.unit] = max(known, actor.progress, key=lambda progress: progress.fraction)
        return tuple(units.values())


def _progress(handle: Any) -> Any:
    return handle.progress.options(concurrency_group="progress").remote()


def _line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
