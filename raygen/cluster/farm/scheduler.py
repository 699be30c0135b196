"""The farm's decisions as a state machine: events in, actions out. It knows neither Ray nor the time."""

from __future__ import annotations

import heapq
import math

from raygen.cluster.farm.events import (
    Action,
    ActorDraining,
    ActorLost,
    ActorReady,
    Assign,
    Event,
    StartActor,
    StopActor,
    TakeBack,
    Tick,
    UnitDone,
    UnitFailed,
    UnitMoved,
)
from raygen.cluster.farm.pool import ActorPool, Member
from raygen.cluster.farm.queue import DONE, UnitQueue

_PLENTY = 4
"""Units that wait for each actor from which on actors get a second one in hand."""

_WORTH = 1.0
"""Seconds that a unit must be expected to take from now, at least, to be run a second time."""


class Scheduler:
    """Hands every unit to an actor until it is done or set aside.

    An event costs O(1); a tick looks at all actors only where one may be past its deadline, or where some idle.

    Args:
        queue: the units, those done before among them.
        minimum: actors to start with.
        maximum: actors to grow to.
        in_flight: units that an actor has in hand; 2 hides the time between two calls.
        attempts: deaths and failures of a unit after which it is set aside.
        deadline: seconds without progress after which an actor is taken for hung.
        idle: seconds after which an actor with nothing to do is stopped.
    """

    def __init__(
        self,
        queue: UnitQueue,
        *,
        minimum: int,
        maximum: int,
        in_flight: int = 2,
        attempts: int = 3,
        deadline: float = math.inf,
        idle: float = 10.0,
    ) -> None:
        self.queue = queue
        self.pool = ActorPool(minimum, maximum)
        self._in_flight, self._attempts = in_flight, attempts
        self._deadline, self._idle = deadline, idle
        self._failures: dict[int, int] = {}
        self._holders: dict[int, list[int]] = {}  # of each unit in hand
        self._next_deadline = 0.0  # no actor is past its deadline before
        self._now = 0.0
        self._finished, self._worked = 0, 0.0  # units whose time is known, and the sum of these times
        self._actions: list[Action] = []

    @property
    def finished(self) -> bool:
        """Whether every unit is done or set aside; actors may still be there."""
        return not self.queue.left

    def begin(self) -> list[Action]:
        """Return the first actions."""
        return self._settle()

    def handle(self, event: Event) -> list[Action]:
        """Take in what happened and return what is to be done, in this order.

        Events of actors that are gone change nothing, but for a unit that is committed: it is done, whoever did it.
        """
        self._now = max(self._now, event.now)
        if isinstance(event, UnitDone):
            self._done(event.actor, event.unit)
        elif isinstance(event, Tick):
            self._tick()
        elif event.actor in self.pool.members:
            self._handle_of_actor(event)
        elif isinstance(event, ActorLost):
            for unit in event.finished:
                self._done(event.actor, unit)
        return self._settle()

    def _handle_of_actor(self, event: ActorReady | UnitFailed | UnitMoved | ActorLost | ActorDraining) -> None:
        if isinstance(event, ActorReady):
            if not self.pool.members[event.actor].ready:
                self.pool.come_up(event.actor)
                self._feed(event.actor)
        elif isinstance(event, UnitFailed):
            if event.unit in self.pool.members[event.actor].hand:
                self._release(event.actor, event.unit)
                self._blame(event.unit, event.reason, hopeless=event.hopeless)
                self._feed(event.actor)
        elif isinstance(event, UnitMoved):
            self._move(event)
        elif isinstance(event, ActorDraining):
            self._drain(event.actor)
        else:
            self._lose(event)

    # What happens to units

    def _done(self, actor: int, unit: int) -> None:
        member = self.pool.members.get(actor)
        if member is not None and member.hand[:1] == [unit]:
            self._finished += 1
            self._worked += self._now - member.since
        self.queue.finish(unit)
        if member is not None and unit in member.hand:
            self._release(actor, unit)
        self._call_off(unit)
        if member is not None:
            self._feed(actor)

    def _call_off(self, unit: int) -> None:
        """Take a unit that is done or set aside out of all hands."""
        for actor in tuple(self._holders.get(unit, ())):
            at_it = self.pool.members[actor].hand[0] == unit
            self._release(actor, unit)
            if at_it:
                # It would go on for as long as the other needed; whoever has another unit can start afresh.
                self._leave(actor)
                self._actions.append(StopActor(actor))
            else:
                self._actions.append(TakeBack(actor, unit))

    def _release(self, actor: int, unit: int) -> None:
        member, holders = self.pool.members[actor], self._holders[unit]
        at_it = member.hand[0] == unit
        member.hand.remove(unit)
        holders.remove(actor)
        if not holders:
            del self._holders[unit]
        if at_it:
            self._begin(actor, member)

    def _put_back(self, unit: int, *, last: bool = False) -> None:
        """Let a unit wait again, unless it is done or another actor has it."""
        if unit not in self._holders and self.queue.state(unit) != DONE:
            self.queue.put_back(unit, last=last)

    def _blame(self, unit: int, reason: str, *, hopeless: bool = False) -> None:
        failures = self._failures[unit] = self._failures.get(unit, 0) + 1
        if hopeless or (failures >= self._attempts and unit not in self._holders):
            self.queue.give_up(unit, reason)
            self._call_off(unit)
        else:
            # To the end: what kills its process must not keep the others waiting.
            self._put_back(unit, last=True)

    def _move(self, event: UnitMoved) -> None:
        member = self.pool.members[event.actor]
        if member.hand[:1] == [event.unit] and event.fraction > member.fraction:
            member.fraction, member.told = event.fraction, self._now

    # What happens to actors

    def _lose(self, event: ActorLost) -> None:
        for unit in event.finished:
            self.queue.finish(unit)
            if unit in self.pool.members[event.actor].hand:
                self._release(event.actor, unit)
            self._call_off(unit)
        member = self.pool.members[event.actor]
        blameless = event.blameless or member.draining
        if not member.ready and not blameless:
            self.pool.fail_to_start(self._now)
        self._leave(event.actor, None if blameless else event.reason)
        if self.pool.stillborn >= self._attempts and not self.pool.members:
            # Nothing runs: the units are not to blame, but no actor comes up to take them.
            self.queue.give_up_all(f"no actor starts ({event.reason})")

    def _leave(self, actor: int, reason: str | None = None) -> None:
        """Forget an actor; its units wait again, and the one that it was at is blamed if there is a reason."""
        member = self.pool.leave(actor)
        for unit in member.hand:
            self._holders[unit].remove(actor)
            if not self._holders[unit]:
                del self._holders[unit]
        for unit in reversed(member.hand[1:]):
            self._put_back(unit)
        for unit in member.hand[:1]:
            if reason is None:
                self._put_back(unit)
            else:
                self._blame(unit, reason)

    def _drain(self, actor: int) -> None:
        member = self.pool.drain(actor)
        for unit in member.hand[:0:-1]:
            self._steal(actor, unit)
        if member.ready and not member.hand:
            self._leave(actor)
            self._actions.append(StopActor(actor))

    def _steal(self, actor: int, unit: int) -> None:
        self._release(actor, unit)
        self._actions.append(TakeBack(actor, unit))
        self._put_back(unit)

    def _tick(self) -> None:
        if self._now >= self._next_deadline:
            self._stop_hung()
        if self.pool.idle and not self.queue.waiting:
            self._help()
        while self.pool.idle and not self.queue.waiting:
            actor, since = next(iter(self.pool.idle.items()))
            if self._now - since < self._idle:
                break
            self._leave(actor)
            self._actions.append(StopActor(actor))

    def _stop_hung(self) -> None:
        """Stop the actors whose units have not moved for too long, the longest first."""
        moved = sorted((member.told, actor) for actor, member in self.pool.members.items() if member.hand)
        late = [actor for told, actor in moved if told + self._deadline <= self._now]
        for actor in late:
            self._actions.append(StopActor(actor))
            self._leave(actor, f"no progress for {self._deadline:g} s")
        # What moves or begins later than this has a later deadline.
        self._next_deadline = self._deadline + next((told for told, _ in moved[len(late) :]), self._now)

    def _help(self) -> None:
        """Give idle actors what others have in their second hand, and a second run of what takes longest."""
        slow = []
        typical = self._worked / self._finished if self._finished else math.inf
        for actor, member in self.pool.members.items():
            for unit in member.hand[:0:-1]:
                if self.queue.waiting < len(self.pool.idle):
                    self._steal(actor, unit)
            if member.hand and len(self._holders[member.hand[0]]) == 1 and member.hand[0] not in self._failures:
                left = member.remaining(typical, self._now)
                if left > max(typical, _WORTH):
                    slow.append((left, member.hand[0]))
        free = len(self.pool.idle) - self.queue.waiting
        copies = [unit for _, unit in heapq.nlargest(free, slow)] if free > 0 else []
        for unit, actor in zip(copies, tuple(self.pool.idle), strict=False):
            self._assign(actor, unit)

    # What follows from it

    def _feed(self, actor: int) -> None:
        """Hand an actor what it may have; note that it idles if there is nothing."""
        if (member := self.pool.members.get(actor)) is None or not member.ready:
            return
        while not member.draining and self.queue.waiting and len(member.hand) < self._in_flight:
            # Near the end a second unit in hand is one that another could have.
            if member.hand and self.queue.waiting < _PLENTY * (self.pool.up + self.pool.pending):
                break
            self._assign(actor, self.queue.take())
        if not member.hand and member.draining:
            self._leave(actor)
            self._actions.append(StopActor(actor))
        elif not member.hand:
            self.pool.idle.setdefault(actor, self._now)

    def _assign(self, actor: int, unit: int) -> None:
        member = self.pool.members[actor]
        self.pool.idle.pop(actor, None)
        member.hand.append(unit)
        self._holders.setdefault(unit, []).append(actor)
        self._actions.append(Assign(actor, unit))
        if len(member.hand) == 1:
            self._begin(actor, member)

    def _begin(self, actor: int, member: Member) -> None:
        if member.hand:
            member.begin(self._now)

    def _settle(self) -> list[Action]:
        pool, queue = self.pool, self.queue
        while queue.waiting and pool.idle:
            self._feed(next(reversed(pool.idle)))
        while pool.pending > queue.waiting:
            self._actions.append(StopActor(pool.stop_pending()))
        while queue.waiting > pool.pending and pool.may_start(self._now):
            self._actions.append(StartActor(pool.start()))
        if self.finished:
            self._actions += [StopActor(actor) for actor in pool.members]
            for actor in tuple(pool.members):
                self._leave(actor)
        actions, self._actions = self._actions, []
        return actions
