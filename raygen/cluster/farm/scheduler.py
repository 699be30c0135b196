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
    Cancel,
    Event,
    StartActor,
    StopActor,
    Tick,
    UnitDone,
    UnitFailed,
    UnitMoved,
)
from raygen.cluster.farm.pool import ActorPool
from raygen.cluster.farm.queue import DONE, UnitQueue

_PLENTY = 4
"""Waiting units for each actor, from which on an actor gets a second one."""

_WORTH = 1.0
"""Seconds that a unit must be expected to take from now, at least, to be run a second time."""


class Scheduler:
    """Hands every unit to an actor until it is done or set aside.

    An event costs O(1); a tick looks at all actors only where one may be past its deadline, or where some idle.

    Args:
        queue: the units, those done before among them.
        minimum: actors to start with.
        maximum: actors to grow to.
        in_flight: units that an actor has at most; 2 hides the time between two calls.
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
        self._limit, self._attempts = in_flight, attempts
        self._deadline, self._idle = deadline, idle
        self._failures: dict[int, int] = {}
        self._holders: dict[int, list[int]] = {}  # the actors of each unit in flight
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
        return self._follow_up()

    def handle(self, event: Event) -> list[Action]:
        """Take in what happened and return what is to be done, in this order.

        Events of actors that are gone change nothing, but for a unit that is committed: it is done, whoever did it.
        """
        self._now = max(self._now, event.now)
        if isinstance(event, UnitDone):
            self._done(event.actor, event.unit)
        elif isinstance(event, Tick):
            self._tick()
        elif event.actor in self.pool.slots:
            self._handle_of_actor(event)
        elif isinstance(event, ActorLost):
            for unit in event.finished:
                self._done(event.actor, unit)
        return self._follow_up()

    def _handle_of_actor(self, event: ActorReady | UnitFailed | UnitMoved | ActorLost | ActorDraining) -> None:
        if isinstance(event, ActorReady):
            if not self.pool.slots[event.actor].ready:
                self.pool.mark_ready(event.actor)
                self._feed(event.actor)
        elif isinstance(event, UnitFailed):
            if event.unit in self.pool.slots[event.actor].in_flight:
                self._release(event.actor, event.unit)
                self._count_failure(event.unit, event.reason, permanent=event.permanent)
                self._feed(event.actor)
        elif isinstance(event, UnitMoved):
            self._note_progress(event)
        elif isinstance(event, ActorDraining):
            self._drain(event.actor)
        else:
            self._handle_loss(event)

    # What happens to units

    def _done(self, actor: int, unit: int) -> None:
        slot = self.pool.slots.get(actor)
        if slot is not None and slot.in_flight[:1] == [unit]:
            self._finished += 1
            self._worked += self._now - slot.since
        self.queue.finish(unit)
        if slot is not None and unit in slot.in_flight:
            self._release(actor, unit)
        self._withdraw(unit)
        if slot is not None:
            self._feed(actor)

    def _withdraw(self, unit: int) -> None:
        """Take a unit that is done or set aside from the actors that still have it."""
        for actor in tuple(self._holders.get(unit, ())):
            is_current = self.pool.slots[actor].in_flight[0] == unit
            self._release(actor, unit)
            if is_current:
                # It would work on for as long as the other needed. A new actor can begin another unit at once.
                self._remove(actor)
                self._actions.append(StopActor(actor))
            else:
                self._actions.append(Cancel(actor, unit))

    def _release(self, actor: int, unit: int) -> None:
        slot, holders = self.pool.slots[actor], self._holders[unit]
        was_current = slot.in_flight[0] == unit
        slot.in_flight.remove(unit)
        holders.remove(actor)
        if not holders:
            del self._holders[unit]
        if was_current and slot.in_flight:
            slot.begin(self._now)

    def _requeue(self, unit: int, *, last: bool = False) -> None:
        """Let a unit wait again, unless it is done or another actor has it."""
        if unit not in self._holders and self.queue.state(unit) != DONE:
            self.queue.requeue(unit, last=last)

    def _count_failure(self, unit: int, reason: str, *, permanent: bool = False) -> None:
        failures = self._failures[unit] = self._failures.get(unit, 0) + 1
        if permanent or (failures >= self._attempts and unit not in self._holders):
            self.queue.give_up(unit, reason)
            self._withdraw(unit)
        else:
            # To the end: a unit that kills its process must not delay the others.
            self._requeue(unit, last=True)

    def _note_progress(self, event: UnitMoved) -> None:
        slot = self.pool.slots[event.actor]
        if slot.in_flight[:1] == [event.unit] and event.fraction > slot.fraction:
            slot.fraction, slot.moved_at = event.fraction, self._now

    # What happens to actors

    def _handle_loss(self, event: ActorLost) -> None:
        for unit in event.finished:
            self.queue.finish(unit)
            if unit in self.pool.slots[event.actor].in_flight:
                self._release(event.actor, unit)
            self._withdraw(unit)
        slot = self.pool.slots[event.actor]
        preempted = event.preempted or slot.draining
        if not slot.ready and not preempted:
            self.pool.note_failed_start(self._now)
        self._remove(event.actor, None if preempted else event.reason)
        if self.pool.failed_starts >= self._attempts and not self.pool.slots:
            # Nothing runs: not because of the units, but because no actor starts.
            self.queue.give_up_all(f"no actor starts ({event.reason})")

    def _remove(self, actor: int, reason: str | None = None) -> None:
        """Forget an actor; its units wait again. With a reason, its current unit counts a failure."""
        slot = self.pool.remove(actor)
        for unit in slot.in_flight:
            self._holders[unit].remove(actor)
            if not self._holders[unit]:
                del self._holders[unit]
        for unit in reversed(slot.in_flight[1:]):
            self._requeue(unit)
        for unit in slot.in_flight[:1]:
            if reason is None:
                self._requeue(unit)
            else:
                self._count_failure(unit, reason)

    def _drain(self, actor: int) -> None:
        slot = self.pool.drain(actor)
        for unit in slot.in_flight[:0:-1]:
            self._cancel(actor, unit)
        if slot.ready and not slot.in_flight:
            self._remove(actor)
            self._actions.append(StopActor(actor))

    def _cancel(self, actor: int, unit: int) -> None:
        self._release(actor, unit)
        self._actions.append(Cancel(actor, unit))
        self._requeue(unit)

    def _tick(self) -> None:
        if self._now >= self._next_deadline:
            self._stop_hung()
        if self.pool.idle and not self.queue.waiting:
            self._rebalance()
        while self.pool.idle and not self.queue.waiting:
            actor, since = next(iter(self.pool.idle.items()))
            if self._now - since < self._idle:
                break
            self._remove(actor)
            self._actions.append(StopActor(actor))

    def _stop_hung(self) -> None:
        """Stop the actors whose units have not moved for too long, the longest first."""
        moved = sorted((slot.moved_at, actor) for actor, slot in self.pool.slots.items() if slot.in_flight)
        late = [actor for moved_at, actor in moved if moved_at + self._deadline <= self._now]
        for actor in late:
            self._actions.append(StopActor(actor))
            self._remove(actor, f"no progress for {self._deadline:g} s")
        # What moves or begins later than this has a later deadline.
        self._next_deadline = self._deadline + next((moved_at for moved_at, _ in moved[len(late) :]), self._now)

    def _rebalance(self) -> None:
        """Give idle actors the units that others have not begun, and a second run of those that take longest."""
        slow = []
        typical = self._worked / self._finished if self._finished else math.inf
        for actor, slot in self.pool.slots.items():
            for unit in slot.in_flight[:0:-1]:
                if self.queue.waiting < len(self.pool.idle):
                    self._cancel(actor, unit)
            for current in slot.in_flight[:1]:
                left = slot.remaining(typical, self._now)
                if left > max(typical, _WORTH) and len(self._holders[current]) == 1 and current not in self._failures:
                    slow.append((left, current))
        free = len(self.pool.idle) - self.queue.waiting
        copies = [unit for _, unit in heapq.nlargest(free, slow)] if free > 0 else []
        for unit, actor in zip(copies, tuple(self.pool.idle), strict=False):
            self._assign(actor, unit)

    # What follows

    def _feed(self, actor: int) -> None:
        """Assign to an actor what it may have; note that it idles if there is nothing."""
        if (slot := self.pool.slots.get(actor)) is None or not slot.ready:
            return
        while not slot.draining and self.queue.waiting and len(slot.in_flight) < self._limit:
            # Near the end, a second unit is one that another actor could have.
            if slot.in_flight and self.queue.waiting < _PLENTY * (self.pool.up + self.pool.pending):
                break
            self._assign(actor, self.queue.take())
        if not slot.in_flight and slot.draining:
            self._remove(actor)
            self._actions.append(StopActor(actor))
        elif not slot.in_flight:
            self.pool.idle.setdefault(actor, self._now)

    def _assign(self, actor: int, unit: int) -> None:
        slot = self.pool.slots[actor]
        self.pool.idle.pop(actor, None)
        slot.in_flight.append(unit)
        self._holders.setdefault(unit, []).append(actor)
        self._actions.append(Assign(actor, unit))
        if len(slot.in_flight) == 1:
            slot.begin(self._now)

    def _follow_up(self) -> list[Action]:
        pool, queue = self.pool, self.queue
        while queue.waiting and pool.idle:
            self._feed(next(reversed(pool.idle)))
        while pool.pending > queue.waiting:
            self._actions.append(StopActor(pool.stop_pending()))
        while queue.waiting > pool.pending and pool.may_start(self._now):
            self._actions.append(StartActor(pool.start()))
        if self.finished:
            self._actions += [StopActor(actor) for actor in pool.slots]
            for actor in tuple(pool.slots):
                self._remove(actor)
        actions, self._actions = self._actions, []
        return actions
