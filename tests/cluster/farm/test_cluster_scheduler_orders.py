"""The farm's decisions under events in any order, without Ray."""

from farm_world import World
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from raygen.cluster.farm.events import (
    ActorDraining,
    ActorLost,
    ActorReady,
    UnitDone,
    UnitFailed,
    UnitMoved,
)
from raygen.cluster.farm.queue import DONE


class AnyOrder(RuleBasedStateMachine):
    """Actors start, die at any time, hang, drain, and send events after their end; at last all is done or set aside."""

    world: World

    @initialize(
        units=st.integers(0, 14),
        actors=st.integers(1, 4),
        more=st.integers(0, 3),
        in_flight=st.integers(1, 2),
        attempts=st.integers(1, 3),
    )
    def begin(self, units: int, actors: int, more: int, in_flight: int, attempts: int) -> None:
        self.world = World(units, actors=actors, maximum=actors + more, in_flight=in_flight, attempts=attempts)

    def pick(self, data: st.DataObject, actors: list[int]) -> int:
        return data.draw(st.sampled_from(actors))

    @precondition(lambda self: self.world.starting())
    @rule(data=st.data())
    def an_actor_is_ready(self, data: st.DataObject) -> None:
        self.world.bring_up(self.pick(data, self.world.starting()))

    @precondition(lambda self: self.world.busy())
    @rule(data=st.data())
    def a_unit_is_done(self, data: st.DataObject) -> None:
        self.world.finish(self.pick(data, self.world.busy()))

    @precondition(lambda self: self.world.busy())
    @rule(data=st.data(), permanent=st.booleans())
    def a_unit_fails(self, data: st.DataObject, permanent: bool) -> None:
        self.world.fail(self.pick(data, self.world.busy()), permanent=permanent)

    @precondition(lambda self: self.world.busy())
    @rule(data=st.data(), fraction=st.floats(0, 1))
    def a_unit_moves(self, data: st.DataObject, fraction: float) -> None:
        self.world.move(self.pick(data, self.world.busy()), fraction)

    @precondition(lambda self: self.world.ready)
    @rule(data=st.data(), preempted=st.booleans(), finished=st.integers(0, 2))
    def an_actor_is_lost(self, data: st.DataObject, preempted: bool, finished: int) -> None:
        self.world.lose(self.pick(data, list(self.world.ready)), preempted=preempted, finished=finished)

    @precondition(lambda self: self.world.up())
    @rule(data=st.data())
    def a_machine_drains(self, data: st.DataObject) -> None:
        self.world.drain(self.pick(data, self.world.up()))

    @rule(seconds=st.sampled_from([0.1, 3.0, 40.0, 101.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)

    @precondition(lambda self: self.world.gone and self.world.units)
    @rule(data=st.data())
    def one_that_is_gone_sends_an_event(self, data: st.DataObject) -> None:
        world = self.world
        actor = self.pick(data, world.gone)
        unit = data.draw(st.integers(0, world.units - 1))
        events = [
            ActorReady(actor, world.now),
            UnitFailed(actor, unit, "late", True, world.now),
            UnitMoved(actor, unit, 0.9, world.now),
            ActorLost(actor, "late", False, world.now),
            ActorDraining(actor, world.now),
        ]
        assert world.handle(data.draw(st.sampled_from(events))) == []

    @precondition(lambda self: self.world.gone and self.world.units)
    @rule(data=st.data(), lost=st.booleans())
    def one_that_is_gone_has_committed_a_unit(self, data: st.DataObject, lost: bool) -> None:
        world = self.world
        actor = self.pick(data, world.gone)
        unit = data.draw(st.integers(0, world.units - 1))
        event = ActorLost(actor, "late", False, world.now, (unit,)) if lost else UnitDone(actor, unit, world.now)
        world.handle(event)
        assert world.scheduler.queue.state(unit) == DONE

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.work_on()
            assert len(self.world.ended) == self.world.units
            self.world.check_reasons()


AnyOrder.TestCase.settings = settings(deadline=None, max_examples=150, stateful_step_count=60)
TestAnyOrder = AnyOrder.TestCase
