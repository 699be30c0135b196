"""The farm's decisions as a state machine: events in, actions out. It knows neither Ray nor time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ActorReady:
    """An actor has come up and can take work."""

    actor: int


@dataclass(frozen=True)
class UnitDone:
    """A unit's samples are committed."""

    actor: int
    unit: str


@dataclass(frozen=True)
class UnitFailed:
    """An actor gave a unit back with an error and lives on.

    Attributes:
        actor: which.
        unit: which.
        reason: one line.
        hopeless: the same would happen again, so it is not tried again.
    """

    actor: int
    unit: str
    reason: str
    hopeless: bool


@dataclass(frozen=True)
class ActorLost:
    """An actor is gone, with all that it had in hand.

    Attributes:
        actor: which.
        reason: one line.
        blameless: its machine was taken away; the unit that it was at is not to blame.
        finished: units in its hand whose samples it had committed before.
    """

    actor: int
    reason: str
    blameless: bool
    finished: tuple[str, ...] = ()


Event = ActorReady | UnitDone | UnitFailed | ActorLost


@dataclass(frozen=True)
class StartActor:
    """Start an actor under this number."""

    actor: int


@dataclass(frozen=True)
class StopActor:
    """There is nothing left for this actor to do."""

    actor: int


@dataclass(frozen=True)
class Assign:
    """Hand a unit to an actor."""

    actor: int
    unit: str


_PLENTY = 4
"""Units in the queue for each actor from which on actors get a second one in hand."""

Action = StartActor | StopActor | Assign


@dataclass
class _Actor:
    ready: bool = False
    in_hand: list[str] = field(default_factory=list)  # the first is the one that it is at


class Scheduler:
    """Hands every unit to an actor until it is done or set aside.

    Args:
        units: names of the units to do, in order.
        actors: how many actors to keep while there is work for them.
        in_flight: units that an actor has in hand; 2 hides the time between two calls.
        attempts: deaths and failures of a unit after which it is set aside.
    """

    def __init__(self, units: Iterable[str], *, actors: int, in_flight: int = 2, attempts: int = 3) -> None:
        self._queue = deque(units)
        self._wanted = actors
        self._in_flight = in_flight
        self._attempts = attempts
        self._actors: dict[int, _Actor] = {}
        self._failures: dict[str, int] = {}
        self._born = 0
        self._stillborn = 0
        self.done: set[str] = set()
        self.set_aside: dict[str, str] = {}

    @property
    def finished(self) -> bool:
        """Whether no unit waits and none is in hand."""
        return not self._queue and not any(actor.in_hand for actor in self._actors.values())

    def begin(self) -> list[Action]:
        """Return the first actions."""
        return self._restaff()

    def handle(self, event: Event) -> list[Action]:
        """Take in what happened and return what is to be done; events of actors already lost are ignored."""
        actor = self._actors.get(event.actor)
        if actor is None:
            return []
        if isinstance(event, ActorLost):
            self._lose(event, actor)
            return self._restaff()
        if isinstance(event, ActorReady):
            actor.ready = True
            self._stillborn = 0
        elif event.unit in actor.in_hand:
            actor.in_hand.remove(event.unit)
            if isinstance(event, UnitDone):
                self.done.add(event.unit)
            else:
                self._fail(event.unit, event.reason, hopeless=event.hopeless)
        # A unit that came back may need hands that were let go.
        return self._feed(event.actor) + self._restaff()

    def _lose(self, event: ActorLost, actor: _Actor) -> None:
        del self._actors[event.actor]
        for unit in event.finished:
            actor.in_hand.remove(unit)
            self.done.add(unit)
        if actor.ready:
            self._stillborn = 0
        elif not event.blameless:
            self._stillborn += 1
        for unit in reversed(actor.in_hand[1:]):
            self._queue.appendleft(unit)
        if actor.in_hand:
            at = actor.in_hand[0]
            if event.blameless:
                self._queue.appendleft(at)
            else:
                self._fail(at, event.reason, hopeless=False)
        if self._stillborn >= self._attempts and not self._actors:
            # Nothing runs: the units are not to blame, but no actor comes up to take them.
            while self._queue:
                self.set_aside[self._queue.popleft()] = f"no actor starts ({event.reason})"

    def _fail(self, unit: str, reason: str, *, hopeless: bool) -> None:
        self._failures[unit] = self._failures.get(unit, 0) + 1
        if hopeless or self._failures[unit] >= self._attempts:
            self.set_aside[unit] = reason
        else:
            # To the end: what kills its process must not keep the others waiting.
            self._queue.append(unit)

    def _feed(self, number: int) -> list[Action]:
        actor = self._actors[number]
        actions: list[Action] = []
        while actor.ready and self._queue and len(actor.in_hand) < self._in_flight:
            # A second unit in hand saves the time between two calls; near the end it is one that another could have.
            if actor.in_hand and len(self._queue) < _PLENTY * self._wanted:
                break
            unit = self._queue.popleft()
            actor.in_hand.append(unit)
            actions.append(Assign(number, unit))
        if actor.ready and not actor.in_hand and not self._queue:
            del self._actors[number]
            actions.append(StopActor(number))
        return actions

    def _restaff(self) -> list[Action]:
        actions: list[Action] = []
        for number in [number for number, actor in self._actors.items() if actor.ready and not actor.in_hand]:
            actions += self._feed(number)
        idle = sum(not actor.in_hand for actor in self._actors.values())
        # After so many that died before they were up, those that are left, or still starting, have to do.
        room = self._wanted if self._stillborn < self._attempts else 0
        while len(self._actors) < room and idle < len(self._queue):
            self._actors[self._born] = _Actor()
            actions.append(StartActor(self._born))
            self._born += 1
            idle += 1
        return actions
