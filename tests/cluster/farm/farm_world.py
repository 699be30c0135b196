"""The actors as a scheduler's actions make them; every promise of the scheduler is checked at every action."""

from collections import Counter

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
from raygen.cluster.farm.queue import DONE, IN_FLIGHT, SET_ASIDE, WAITING, UnitQueue
from raygen.cluster.farm.scheduler import Scheduler


class World:
    def __init__(
        self,
        units: int,
        *,
        actors: int,
        maximum: int | None = None,
        in_flight: int = 2,
        attempts: int = 3,
        deadline: float = 100.0,
    ) -> None:
        self.units, self.maximum = units, maximum or actors
        self.minimum, self.limit, self.attempts, self.deadline = actors, in_flight, attempts, deadline
        self.scheduler = Scheduler(
            UnitQueue(bytearray(units)),
            minimum=actors,
            maximum=self.maximum,
            in_flight=in_flight,
            attempts=attempts,
            deadline=deadline,
        )
        self.now = 0.0
        self.ready: dict[int, bool] = {}
        self.in_flight: dict[int, list[int]] = {}
        self.draining: set[int] = set()
        self.gone: list[int] = []
        self.failures: Counter[int] = Counter()
        self.permanent: set[int] = set()
        self.ended: set[int] = set()
        self.stopped: list[int] = []
        self.most = 0
        self.act(self.scheduler.begin())

    # What the scheduler says

    def act(self, actions: list[Action]) -> list[Action]:
        for action in actions:
            if isinstance(action, StartActor):
                assert action.actor not in self.ready and action.actor not in self.gone
                self.ready[action.actor], self.in_flight[action.actor] = False, []
            elif isinstance(action, StopActor):
                self.stopped.append(action.actor)
                self.remove(action.actor)
            elif isinstance(action, Assign):
                assert self.ready[action.actor] and action.actor not in self.draining
                assert action.unit not in self.in_flight[action.actor]
                self.in_flight[action.actor].append(action.unit)
                assert len(self.in_flight[action.actor]) <= self.limit
            else:
                assert action.unit in self.in_flight[action.actor][1:], "a unit that has begun cannot be cancelled"
                self.in_flight[action.actor].remove(action.unit)
            working = self.ready.keys() - self.draining
            assert len(working) <= self.maximum
            self.most = max(self.most, len(working))
        self.check()
        return actions

    def check(self) -> None:
        queue, states = self.scheduler.queue, self.states()
        held = Counter(unit for units in self.in_flight.values() for unit in units)
        assert max(held.values(), default=0) <= 2, "no unit is with more than two actors"
        assert {unit for unit, state in enumerate(states) if state == IN_FLIGHT} == held.keys()
        assert self.ended <= {unit for unit, state in enumerate(states) if state in (DONE, SET_ASIDE)}
        self.ended = {unit for unit, state in enumerate(states) if state in (DONE, SET_ASIDE)}
        counts = Counter(states)
        assert (queue.waiting, queue.in_flight) == (counts[WAITING], counts[IN_FLIGHT])
        assert (queue.done, queue.set_aside) == (counts[DONE], counts[SET_ASIDE])
        assert self.scheduler.finished == (len(self.ended) == self.units)
        pending = sum(not up for up in self.ready.values())
        assert pending == self.scheduler.pool.pending <= queue.waiting, "nothing is asked for that is not needed"
        up = len(self.ready.keys() - self.draining) - pending
        assert up == self.scheduler.pool.up
        if queue.waiting:
            assert all(self.in_flight[actor] for actor, up in self.ready.items() if up), "none idles while a unit waits"
        if self.scheduler.finished:
            assert not self.ready, "a finished farm leaves no actor"

    def states(self) -> list[int]:
        return [self.scheduler.queue.state(unit) for unit in range(self.units)]

    def done(self) -> set[int]:
        return {unit for unit, state in enumerate(self.states()) if state == DONE}

    def set_aside(self) -> dict[int, str]:
        return self.scheduler.queue.reasons(self.units)

    def remove(self, actor: int) -> list[int]:
        del self.ready[actor]
        self.draining.discard(actor)
        self.gone.append(actor)
        return self.in_flight.pop(actor)

    # What happens

    def handle(self, event: Event) -> list[Action]:
        return self.act(self.scheduler.handle(event))

    def bring_up(self, actor: int) -> None:
        self.ready[actor] = True
        self.handle(ActorReady(actor, self.now))

    def finish(self, actor: int) -> int:
        unit = self.in_flight[actor].pop(0)
        self.handle(UnitDone(actor, unit, self.now))
        assert self.scheduler.queue.state(unit) == DONE
        return unit

    def fail(self, actor: int, *, permanent: bool) -> None:
        unit = self.in_flight[actor].pop(0)
        self.failures[unit] += 1
        if permanent:
            self.permanent.add(unit)
        self.handle(UnitFailed(actor, unit, "it fails", permanent, self.now))

    def lose(self, actor: int, *, preempted: bool, finished: int = 0) -> None:
        drained = actor in self.draining
        units = self.remove(actor)
        if units[finished:] and not preempted and not drained:
            self.failures[units[finished]] += 1
        self.handle(ActorLost(actor, "it died", preempted, self.now, tuple(units[:finished])))

    def move(self, actor: int, fraction: float) -> None:
        assert self.handle(UnitMoved(actor, self.in_flight[actor][0], fraction, self.now)) == []

    def drain(self, actor: int) -> list[Action]:
        self.draining.add(actor)
        return self.handle(ActorDraining(actor, self.now))

    def tick(self, seconds: float) -> list[Action]:
        self.now += seconds
        at = {actor: units[0] for actor, units in self.in_flight.items() if units}
        before = set(self.set_aside())
        self.stopped.clear()
        actions = self.handle(Tick(self.now))
        for actor in self.stopped:
            if actor in at and actor not in self.ready:
                self.failures[at[actor]] += 1  # it hung
        assert all("no progress" in self.set_aside()[unit] for unit in self.set_aside().keys() - before)
        return actions

    def up(self) -> list[int]:
        return [actor for actor, up in self.ready.items() if up]

    def starting(self) -> list[int]:
        return [actor for actor, up in self.ready.items() if not up]

    def busy(self) -> list[int]:
        return [actor for actor, units in self.in_flight.items() if units]

    def work_on(self) -> None:
        """Let everything succeed from now on; it has to end."""
        for _ in range(20 * self.units + 20 * self.maximum + 100):
            if self.scheduler.finished:
                return
            if starting := self.starting():
                self.bring_up(starting[0])
            elif busy := self.busy():
                self.finish(busy[0])
            else:
                self.tick(60.0)
        raise AssertionError("the farm does not end")

    def check_reasons(self) -> None:
        for unit, reason in self.set_aside().items():
            failed = unit in self.permanent or self.failures[unit] >= self.attempts
            assert failed or reason.startswith("no actor starts")
        for unit in self.done():
            assert self.failures[unit] < self.attempts + 2
