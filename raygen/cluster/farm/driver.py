"""The pool of actors that samples a run's units: Ray's edge of the scheduler."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError, TaskCancelledError

from raygen.cluster.connection import unwrapped
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
from raygen.cluster.farm.pool import PoolSize
from raygen.cluster.farm.progress import FarmProgress
from raygen.cluster.farm.queue import DONE, IN_FLIGHT, WAITING, UnitQueue
from raygen.cluster.farm.scheduler import Scheduler
from raygen.cluster.lifeline import Lost
from raygen.cluster.machines import Machines, is_alive
from raygen.runs import FarmReport, UnitReport
from raygen.sampling import UnitProgress
from raygen.store import Unit

log = logging.getLogger(__name__)

_TICK = 0.5
"""Seconds between two looks at the actors' progress."""

_ASKED = 200
"""Actors that are asked for their progress at a time, at most; of more, each has its turn."""

_AWAKE = 10.0
"""Seconds of the clock between two steps, at most: after more, the driver was asleep, and no actor was slow."""

_SAVING = 10.0
"""Seconds that the actors have to save their units when the farm is stopped: a scheduler kills soon after it asks."""


@dataclass(slots=True)
class _Actor:
    handle: Any
    machine: str = ""  # "" until it is ready
    unit: int = -1  # of its last progress
    progress: UnitProgress | None = None


class Farm:
    """Runs the units that a plan still lacks on a pool of actors.

    The autoscaler sees the actors that wait for a machine: it adds machines for them, and removes machines without
    actors. (A request by ``ray.autoscaler.sdk.request_resources`` would hold for the whole cluster, overwrite that of
    another job, and outlive this one.)

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
        queue = UnitQueue(bytearray(DONE if flag else WAITING for flag in done))
        self._scheduler = Scheduler(queue, minimum=size.minimum, maximum=size.maximum, deadline=deadline)
        self._factory, self._arguments = kind.factory(), kind.arguments
        self._actors: dict[int, _Actor] = {}
        self._turns: dict[int, None] = {}  # the actors, in the order in which they are asked
        self._calls = Calls()
        self._machines = Machines()
        self._progress = FarmProgress(plan, done.count(1), self._scheduler, name)
        self._now, self._seen = 0.0, time.monotonic()

    def run(self, on_progress: Callable[[FarmReport], None]) -> FarmReport:
        """Work until every unit is done or set aside; return the final report. However it ends, no actor is left.

        A request to stop, an exception that is no ``Exception``, first lets the actors save the units that they are at.
        """
        start = time.monotonic()
        try:
            with unwrapped():
                self._work(start, on_progress)
        except BaseException as error:
            # Of a dead Ray nothing can be asked; after a failure of the driver's own the units may be someone else's.
            if not isinstance(error, Exception | Lost):
                self._save_units()
            raise
        finally:
            for actor in self._actors.values():
                ray.kill(actor.handle)
        return self._report(time.monotonic() - start)

    def _work(self, start: float, on_progress: Callable[[FarmReport], None]) -> None:
        last = start
        self._act(self._scheduler.begin())
        while not self._scheduler.finished:
            for call, outcome in self._calls.collect(_TICK):
                self._take_outcome(call, outcome)
            if time.monotonic() - last >= _TICK:
                last = time.monotonic()
                self._tick()
                on_progress(self._report(last - start))

    def _save_units(self) -> None:
        """Let each actor save its unit, and end it; warn of those that did not manage in time."""
        calls = Calls()  # what was waited for may have been interrupted anywhere
        left = {number: actor for number, actor in self._actors.items() if actor.machine}
        for number, actor in left.items():
            calls.add(Call(number, "save"), _beside(actor.handle.save))
        refusals: list[str] = []
        deadline = time.monotonic() + _SAVING
        while left and (seconds := deadline - time.monotonic()) > 0:
            for call, outcome in calls.collect(seconds):
                ray.kill(left.pop(call.actor).handle)
                if outcome:
                    refusals.append(outcome if isinstance(outcome, str) else _line(outcome))
        refusals += [f"no answer within {_SAVING:g} s"] * len(left)
        if refusals:
            log.warning("%d of %d actors did not save the last state of their unit: %s",
                        len(refusals), len(self._actors), refusals[0])  # fmt: skip

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
                self._calls.add(call, _beside(self._actors[number].handle.progress))

    def _drains(self, actor: _Actor) -> bool:
        return actor.machine in self._machines.draining

    # Outcomes of calls

    def _take_outcome(self, call: Call, outcome: Any) -> None:
        if isinstance(outcome, TaskCancelledError) or call.actor not in self._actors:
            return
        if isinstance(outcome, RayTaskError) and call.kind != "ready":
            if call.kind == "sample":
                self._handle(UnitFailed(call.actor, call.unit, _line(outcome), False, self._clock()))
        elif isinstance(outcome, RayError):
            self._handle_loss(call.actor, outcome)
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
            self._progress.count(report)

    def _handle_loss(self, number: int, error: RayError) -> None:
        actor = self._actors[number]
        finished = []
        # What it had finished before is done, and counts no failure.
        for call, outcome in self._calls.drop(number):
            if call.kind == "sample" and isinstance(outcome, UnitReport):
                self._count(call.unit, outcome)
                finished.append(call.unit)
        preempted = (
            isinstance(error, ActorUnavailableError)
            or bool(getattr(error, "preempted", False))
            or (actor.machine != "" and not is_alive(actor.machine))
        )
        # It may still be alive, and must not work on units that others have now.
        self._forget(number)
        self._handle(ActorLost(number, _line(error), preempted, self._clock(), tuple(finished)))

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

    def _report(self, seconds: float) -> FarmReport:
        return self._progress.report(self._running(), len(self._actors), seconds)

    def _running(self) -> Iterable[UnitProgress]:
        """Return the progress of each unit in flight, once: of two actors with the same one, the further."""
        units: dict[int, UnitProgress] = {}
        for actor in self._actors.values():
            # The last progress of an idle actor is of a unit that is done.
            if actor.progress is not None and actor.unit >= 0 and self._scheduler.queue.state(actor.unit) == IN_FLIGHT:
                known = units.get(actor.unit, actor.progress)
                units[actor.unit] = max(known, actor.progress, key=lambda progress: progress.fraction)
        return units.values()


def _beside(method: Any) -> Any:
    """Call an actor's method beside the unit that runs."""
    return method.options(concurrency_group="progress").remote()


def _line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
