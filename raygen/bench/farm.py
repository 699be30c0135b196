"""``raygen bench farm``: the farm beside bare processes, how fast it hands out, and a farm in virtual time.

The last is the scheduler that a real farm has, on actors that are only numbers.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from raygen.bench.results import Result, single
from raygen.bench.settings import FarmBenchSettings
from raygen.cluster import (
    Action,
    ActorDraining,
    ActorLost,
    ActorReady,
    Assign,
    Event,
    Scheduler,
    StartActor,
    StopActor,
    Tick,
    UnitDone,
    UnitMoved,
    UnitQueue,
)

_MINUTE = 60.0


_SHARE, _TIME = 0.95, 60.0
"""Targets: share of the actors' time that is work, seconds of a simulation."""


def bench_farm(settings: FarmBenchSettings) -> Iterator[Result]:
    """Yield the farm's speed against bare processes, its overhead, its own speed and memory, and a simulation.

    Raises:
        SettingsError: if there are not two CPUs for two actors.
    """
    if settings.virtual_units:
        yield from _simulation(settings)
    if settings.rounds or settings.idle_units:
        from raygen.bench.farm_speed import measure  # noqa: PLC0415  (only here Ray is needed)

        yield from measure(settings)


def _simulation(settings: FarmBenchSettings) -> Iterator[Result]:
    conditions = Conditions(actors=settings.virtual_actors, units=settings.virtual_units)
    start = time.perf_counter()
    course = simulate(conditions)
    seconds = time.perf_counter() - start
    case = f"{conditions.actors:,} actors in virtual time"
    once = sum(count >= 1 for count in course.commits)
    busy = course.busy / (conditions.actors * course.queue_seconds)
    done = course.scheduler.queue.done
    yield single("farm", f"{case}, units done, against the plan", "units", done, conditions.units)
    yield single("farm", f"{case}, units committed, against the plan", "units", once, conditions.units)
    yield single("farm", f"{case}, busy until the queue is empty, against the target", "share", busy, _SHARE)
    yield single("farm", f"{case}, real time, against the target", "s", seconds, _TIME)


@dataclass(frozen=True)
class Conditions:
    """What a simulated farm goes through. Times are seconds.

    Attributes:
        actors: the most there are; so many are there at the start, unless ``minimum`` says otherwise.
        units: to do.
        minimum: actors that are asked for at the start.
        unit_seconds: mean time of a unit.
        spread: standard deviation of the logarithm of a unit's time, log-normal.
        start_seconds: mean time until an actor is up, exponential.
        lost_per_hour: share of the actors that are lost in an hour.
        drained: share of the losses that are announced, two minutes before.
        hung: share of the units that hang on an actor until it is killed.
        deadline: seconds after which that is.
        asked_seconds: between two looks at an actor's progress.
        call_seconds: from the end of a unit to the start of the next, where the actor has no second one.
        seed: of all random numbers.
    """

    actors: int = 5_000
    units: int = 1_000_000
    minimum: int | None = None
    unit_seconds: float = 60.0
    spread: float = 1.0
    start_seconds: float = 120.0
    lost_per_hour: float = 0.05
    drained: float = 0.5
    hung: float = 0.0
    deadline: float = 600.0
    asked_seconds: float = 60.0
    call_seconds: float = 0.05
    seed: int = 0


@dataclass
class Course:
    """How a simulated farm went.

    Attributes:
        commits: how often each unit was committed; more than once where two actors had it.
        seconds: until every unit was done or set aside.
        queue_seconds: until no unit waited for the first time.
        busy: actor-seconds of work until then.
        up: actor-seconds that there was an actor to work until then.
        lost, hung: actors lost, and killed.
        events: that the scheduler took in.
        scheduler: as it was at the end.
    """

    scheduler: Scheduler
    commits: bytearray
    seconds: float = 0.0
    queue_seconds: float = math.inf
    busy: float = 0.0
    up: float = 0.0
    lost: int = 0
    hung: int = 0
    events: int = 0


@dataclass(slots=True)
class _Actor:
    born: float
    in_flight: list[int] = field(default_factory=list)
    began: float = 0.0
    seconds: float = 0.0
    run: int = 0  # counts what it began, so that the end of a stopped one is ignored


def simulate(conditions: Conditions) -> Course:
    """Run a farm until it is finished."""
    return _World(conditions).run()


class _World:
    def __init__(self, conditions: Conditions) -> None:
        self._is = conditions
        self._random = random.Random(conditions.seed)
        self._scheduler = Scheduler(
            UnitQueue(bytearray(conditions.units)),
            minimum=conditions.actors if conditions.minimum is None else conditions.minimum,
            maximum=conditions.actors,
            deadline=conditions.deadline,
        )
        self._course = Course(self._scheduler, bytearray(conditions.units))
        # exp(mu + s^2/2) is the mean.
        self._mu = math.log(conditions.unit_seconds) - conditions.spread**2 / 2
        self._now = 0.0
        self._order = 0
        self._clock: list[tuple[float, int, str, int, int]] = []
        self._actors: dict[int, _Actor | None] = {}  # None: not ready yet

    def run(self) -> Course:
        self._act(self._scheduler.begin())
        self._plan(1.0, "tick", -1)
        while not self._scheduler.finished:
            self._now, _, kind, actor, run = heapq.heappop(self._clock)
            for event in self._happen(kind, actor, run):
                self._course.events += 1
                self._act(self._scheduler.handle(event))
            if self._scheduler.queue.waiting == 0 and self._course.queue_seconds == math.inf:
                self._count_until_now()
        self._course.seconds = self._now
        return self._course

    def _count_until_now(self) -> None:
        self._course.queue_seconds = self._now
        for actor in self._actors.values():
            if actor is not None:
                self._count(actor)

    def _count(self, actor: _Actor) -> None:
        end = min(self._now, self._course.queue_seconds)
        self._course.up += max(0.0, end - actor.born)
        if actor.in_flight:
            self._course.busy += max(0.0, end - actor.began)

    def _happen(self, kind: str, number: int, run: int) -> Iterator[Event]:
        if kind == "tick":
            self._plan(1.0, "tick", -1)
            yield Tick(self._now)
        elif number not in self._actors:
            return
        elif kind == "up":
            self._start(number)
            yield ActorReady(number, self._now)
        elif kind == "drain":
            yield ActorDraining(number, self._now)
        elif kind == "lost":
            self._course.lost += 1
            self._gone(number)
            yield ActorLost(number, "its machine is lost", True, self._now)
        elif (actor := self._actors[number]) is not None and actor.run == run:
            if kind == "move":
                self._plan_move(number, actor)
                yield UnitMoved(number, actor.in_flight[0], (self._now - actor.began) / actor.seconds, self._now)
            else:
                yield UnitDone(number, self._finish(number, actor), self._now)

    def _start(self, number: int) -> None:
        self._actors[number] = _Actor(self._now)
        if self._is.lost_per_hour > 0:
            lost = self._random.expovariate(self._is.lost_per_hour / (60 * _MINUTE))
            self._plan(lost, "lost", number)
            if self._random.random() < self._is.drained:
                self._plan(max(0.0, lost - 2 * _MINUTE), "drain", number)

    def _finish(self, number: int, actor: _Actor) -> int:
        if self._course.queue_seconds == math.inf:
            self._course.busy += self._now - actor.began
        unit = actor.in_flight.pop(0)
        self._course.commits[unit] = min(255, self._course.commits[unit] + 1)
        actor.run += 1
        if actor.in_flight:
            self._begin(number, actor, 0.0)
        return unit

    def _begin(self, number: int, actor: _Actor, pause: float) -> None:
        actor.began = self._now + pause
        actor.run += 1
        if self._is.hung and self._random.random() < self._is.hung:
            return
        actor.seconds = self._random.lognormvariate(self._mu, self._is.spread)
        self._plan_move(number, actor)
        self._plan(pause + actor.seconds, "end", number, actor.run)

    def _plan_move(self, number: int, actor: _Actor) -> None:
        # Shorter units are done before they would be asked.
        if self._now + self._is.asked_seconds < actor.began + actor.seconds:
            self._plan(self._is.asked_seconds, "move", number, actor.run)

    def _plan(self, seconds: float, kind: str, number: int, run: int = 0) -> None:
        self._order += 1
        heapq.heappush(self._clock, (self._now + seconds, self._order, kind, number, run))

    def _gone(self, number: int) -> None:
        actor = self._actors.pop(number)
        if actor is not None and self._course.queue_seconds == math.inf:
            self._count(actor)

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, StartActor):
                self._actors[action.actor] = None
                self._plan(self._random.expovariate(1 / self._is.start_seconds), "up", action.actor)
            elif isinstance(action, StopActor):
                self._gone(action.actor)
            elif isinstance(action, Assign):
                self._assign(action.actor, action.unit)
            else:
                self._up(action.actor).in_flight.remove(action.unit)

    def _assign(self, number: int, unit: int) -> None:
        actor = self._up(number)
        actor.in_flight.append(unit)
        if len(actor.in_flight) == 1:
            self._begin(number, actor, self._is.call_seconds)

    def _up(self, number: int) -> _Actor:
        actor = self._actors[number]
        assert actor is not None, "only an actor that is ready has units"
        return actor
