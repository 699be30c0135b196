"""The farm's decisions, without Ray: orders of events that no one thought of, and those that someone did."""

import pytest
from farm_world import World
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from raygen.cluster.backlog import DONE, SET_ASIDE, Backlog
from raygen.cluster.events import (
    ActorDraining,
    ActorLost,
    ActorReady,
    Assign,
    StartActor,
    StopActor,
    TakeBack,
    UnitDone,
    UnitFailed,
    UnitMoved,
)
from raygen.cluster.scheduler import Scheduler


class AnyOrder(RuleBasedStateMachine):
    """Actors come, die at any time, hang, drain, and tell of things long after; in the end all is done or set aside."""

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
    def an_actor_comes_up(self, data: st.DataObject) -> None:
        self.world.come_up(self.pick(data, self.world.starting()))

    @precondition(lambda self: self.world.busy())
    @rule(data=st.data())
    def a_unit_is_done(self, data: st.DataObject) -> None:
        self.world.finish(self.pick(data, self.world.busy()))

    @precondition(lambda self: self.world.busy())
    @rule(data=st.data(), hopeless=st.booleans())
    def a_unit_fails(self, data: st.DataObject, hopeless: bool) -> None:
        self.world.fail(self.pick(data, self.world.busy()), hopeless=hopeless)

    @precondition(lambda self: self.world.busy())
    @rule(data=st.data(), fraction=st.floats(0, 1))
    def a_unit_moves(self, data: st.DataObject, fraction: float) -> None:
        self.world.move(self.pick(data, self.world.busy()), fraction)

    @precondition(lambda self: self.world.ready)
    @rule(data=st.data(), blameless=st.booleans(), finished=st.integers(0, 2))
    def an_actor_is_lost(self, data: st.DataObject, blameless: bool, finished: int) -> None:
        self.world.lose(self.pick(data, list(self.world.ready)), blameless=blameless, finished=finished)

    @precondition(lambda self: self.world.up())
    @rule(data=st.data())
    def a_machine_drains(self, data: st.DataObject) -> None:
        self.world.drain(self.pick(data, self.world.up()))

    @rule(seconds=st.sampled_from([0.1, 3.0, 40.0, 101.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)

    @precondition(lambda self: self.world.gone and self.world.units)
    @rule(data=st.data())
    def one_that_is_gone_tells_of_something(self, data: st.DataObject) -> None:
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
        assert world.tell(data.draw(st.sampled_from(events))) == []

    @precondition(lambda self: self.world.gone and self.world.units)
    @rule(data=st.data(), lost=st.booleans())
    def one_that_is_gone_has_committed_a_unit(self, data: st.DataObject, lost: bool) -> None:
        world = self.world
        actor = self.pick(data, world.gone)
        unit = data.draw(st.integers(0, world.units - 1))
        event = ActorLost(actor, "late", False, world.now, (unit,)) if lost else UnitDone(actor, unit, world.now)
        world.tell(event)
        assert world.scheduler.backlog.state(unit) == DONE

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.work_on()
            assert len(self.world.ended) == self.world.units
            self.world.check_reasons()


AnyOrder.TestCase.settings = settings(deadline=None, max_examples=150, stateful_step_count=60)
TestAnyOrder = AnyOrder.TestCase


# ---- units that fail, actors that die


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_unit_that_kills_its_actors_is_set_aside_after_so_many_attempts_and_the_others_are_done(
    attempts: int,
) -> None:
    world = World(6, actors=2, attempts=attempts)
    deaths = 0
    while not world.scheduler.finished:
        actor = min(world.ready)
        if not world.ready[actor]:
            world.come_up(actor)
        elif world.hands[actor][:1] == [2]:
            deaths += 1
            world.lose(actor, blameless=False)
        elif world.hands[actor]:
            world.finish(actor)
        else:
            world.come_up(max(world.ready))
    assert deaths == attempts
    assert world.set_aside() == {2: "it died"}
    assert world.done() == set(range(6)) - {2}


def test_a_death_blames_only_the_unit_that_the_actor_was_at() -> None:
    world = World(31, actors=1, attempts=2)
    for _ in range(2):
        (actor,) = world.ready
        world.come_up(actor)
        while world.hands[actor][0] != 0:
            world.finish(actor)
        world.lose(actor, blameless=False)
    assert world.set_aside() == {0: "it died"}
    world.work_on()
    assert world.done() == set(range(1, 31))


def test_a_preempted_actor_costs_its_unit_nothing_and_it_goes_first() -> None:
    world = World(20, actors=1, attempts=1)
    for _ in range(5):
        (actor,) = world.ready
        world.come_up(actor)
        assert world.hands[actor] == [0, 1]
        world.lose(actor, blameless=True)
    world.work_on()
    assert world.done() == set(range(20))


def test_what_a_lost_actor_had_finished_is_done_and_only_the_next_is_blamed() -> None:
    world = World(20, actors=1, attempts=1)
    world.come_up(0)
    world.lose(0, blameless=False, finished=1)
    assert world.done() == {0} and set(world.set_aside()) == {1}


def test_a_hopeless_failure_is_not_tried_again() -> None:
    world = World(3, actors=1)
    world.come_up(0)
    world.fail(0, hopeless=True)
    assert world.set_aside() == {0: "it fails"}
    world.work_on()
    assert world.done() == {1, 2}


def test_a_failure_goes_to_the_end_and_is_tried_again() -> None:
    world = World(4, actors=1, in_flight=1)
    world.come_up(0)
    world.fail(0, hopeless=False)
    order = []
    while not world.scheduler.finished:
        order.append(world.finish(0))
    assert order == [1, 2, 3, 0]


# ---- actors that do not come up


def test_where_no_actor_starts_it_is_tried_less_and_less_and_then_all_is_set_aside() -> None:
    world = World(5, actors=1)
    pauses = []
    while world.ready:
        world.lose(max(world.ready), blameless=False)
        pause = 0.0
        while not world.ready and not world.scheduler.finished:
            world.tick(0.5)
            pause += 0.5
        pauses.append(pause)
    assert pauses == [1.0, 2.0, 0.0]
    assert world.set_aside() == dict.fromkeys(range(5), "no actor starts (it died)")


def test_a_preempted_start_is_not_counted() -> None:
    world = World(5, actors=1)
    for _ in range(10):
        world.lose(max(world.ready), blameless=True)
    world.work_on()
    assert world.done() == set(range(5))


def test_a_farm_whose_first_actors_die_young_goes_on_with_those_that_are_still_starting() -> None:
    world = World(40, actors=20)
    for actor in range(5):
        world.lose(actor, blameless=False)
    assert not world.set_aside()
    world.work_on()
    assert world.done() == set(range(40))


def test_an_actor_that_comes_up_ends_the_pause() -> None:
    world = World(40, actors=4)
    for actor in range(3):
        world.lose(actor, blameless=False)
    assert world.starting() == [3]
    world.come_up(3)
    assert len(world.ready) == 4


# ---- how many actors


def test_nothing_to_do_starts_no_actor() -> None:
    world = World(0, actors=4)
    assert world.scheduler.finished and not world.gone


def test_what_was_done_before_is_not_done_again() -> None:
    scheduler = Scheduler(Backlog(bytearray([DONE, 0, DONE, 0])), minimum=1, maximum=1)
    scheduler.begin()
    assert scheduler.handle(ActorReady(0, 0.0)) == [Assign(0, 1)]
    assert scheduler.handle(UnitDone(0, 1, 0.0)) == [Assign(0, 3)]
    assert scheduler.handle(UnitDone(0, 3, 0.0)) == [StopActor(0)]
    assert scheduler.finished and scheduler.backlog.done == 2


def test_no_more_actors_are_started_than_there_are_units() -> None:
    assert World(3, actors=100).most == 3


def test_the_pool_grows_to_its_maximum_by_halves_and_never_floods_a_small_cluster() -> None:
    world = World(2000, actors=2, maximum=300)
    waits = []
    while starting := world.starting():
        waits.append(len(starting))
        for actor in starting:
            world.come_up(actor)
    assert waits[0] == 4 and len(waits) < 20
    assert all(wait <= max(4, sum(waits[:place])) for place, wait in enumerate(waits))
    assert len(world.ready) == world.most == 300


def test_actors_that_no_machine_takes_do_not_become_more() -> None:
    world = World(1000, actors=2, maximum=5000)
    for actor in (0, 1):
        world.come_up(actor)
    for _ in range(100):
        world.finish(0)
        world.tick(1.0)
    assert len(world.starting()) == 4


def test_what_is_asked_for_is_given_back_when_the_rest_needs_it_no_more() -> None:
    world = World(12, actors=10)
    world.come_up(0)
    for _ in range(5):
        world.finish(0)
    assert len(world.starting()) == world.scheduler.backlog.waiting == 6
    assert world.gone == [9, 8, 7]


def test_the_second_unit_in_hand_is_left_to_an_idle_actor_at_the_end() -> None:
    world = World(4, actors=4)
    for actor in range(4):
        world.come_up(actor)
    assert [len(hand) for hand in world.hands.values()] == [1, 1, 1, 1]


def test_an_actor_with_nothing_to_do_is_stopped_after_a_while() -> None:
    world = World(2, actors=2)
    world.come_up(0)
    world.come_up(1)
    world.now = 20.0
    world.move(1, 0.9)
    world.finish(0)
    assert world.tick(9.0) == []
    assert world.tick(2.0) == [StopActor(0)]
    assert world.tick(50.0) == []


def test_an_idle_actor_takes_what_another_gives_back() -> None:
    world = World(2, actors=2)
    world.come_up(0)
    world.come_up(1)
    world.finish(0)
    world.lose(1, blameless=True)
    assert world.hands == {0: [1]}


# ---- machines that drain


def test_an_actor_on_a_draining_machine_ends_its_unit_gets_no_other_and_is_replaced() -> None:
    world = World(30, actors=2)
    world.come_up(0)
    world.come_up(1)
    assert world.hands == {0: [0, 1], 1: [2, 3]}
    assert world.drain(0) == [TakeBack(0, 1), StartActor(2)]
    world.come_up(2)
    assert world.hands[2][0] == 1, "what was taken back goes first"
    world.finish(0)
    assert 0 in world.gone and 0 in world.done()
    assert world.most == 2


def test_a_loss_on_a_draining_machine_blames_no_unit() -> None:
    world = World(30, actors=1, attempts=1)
    world.come_up(0)
    world.drain(0)
    world.lose(0, blameless=False)
    world.work_on()
    assert world.done() == set(range(30))


# ---- actors that hang


def test_an_actor_without_progress_is_stopped_its_unit_blamed_and_the_other_requeued_free() -> None:
    world = World(10, actors=1, attempts=1, deadline=50.0)
    world.come_up(0)
    assert world.hands[0] == [0, 1]
    assert world.tick(49.0) == []
    assert world.tick(2.0) == [StopActor(0), StartActor(1)]
    assert world.set_aside() == {0: "no progress for 50 s"}
    world.come_up(1)
    assert world.hands[1][0] == 1
    world.work_on()
    assert world.done() == set(range(1, 10))


def test_progress_moves_the_deadline_and_standing_still_does_not() -> None:
    world = World(1, actors=1, deadline=50.0)
    world.come_up(0)
    for fraction in (0.1, 0.2, 0.3):
        world.tick(40.0)
        world.move(0, fraction)
    world.tick(40.0)
    world.move(0, 0.3)
    assert StopActor(0) in world.tick(11.0)


def test_the_deadline_of_a_unit_counts_from_its_own_start() -> None:
    world = World(10, actors=1, deadline=50.0)
    world.come_up(0)
    for _ in range(5):
        world.tick(40.0)
        world.finish(0)
    assert world.tick(40.0) == []


def test_a_unit_that_hangs_again_and_again_is_set_aside() -> None:
    world = World(3, actors=1, in_flight=1, deadline=50.0)
    while not world.scheduler.finished:
        (actor,) = world.ready
        if not world.ready[actor]:
            world.come_up(actor)
        elif world.hands[actor] == [1]:
            world.tick(51.0)
        else:
            world.finish(actor)
    assert world.set_aside() == {1: "no progress for 50 s"}


# ---- stragglers


def slow_end(attempts: int = 3) -> World:
    """Two actors: one idles, the other is 30 times as long at its unit as is typical."""
    world = World(8, actors=2, in_flight=1, attempts=attempts, deadline=1e6)
    world.come_up(0)
    world.come_up(1)
    slow = world.hands[0][0]
    while world.scheduler.backlog.left > 1:
        world.now += 2.0
        world.finish(1)
    assert world.hands == {0: [slow], 1: []}
    return world


def test_a_straggler_is_run_twice_and_the_first_result_wins() -> None:
    for winner, loser in ((0, 1), (1, 0)):
        world = slow_end()
        assert world.tick(5.0) == [Assign(1, 0)]
        unit = world.hands[winner].pop(0)
        assert world.tell(UnitDone(winner, unit, world.now)) == [StopActor(loser), StopActor(winner)]
        assert world.scheduler.finished and world.done() == set(range(8))
        assert world.tell(UnitDone(loser, unit, world.now)) == []
        assert world.scheduler.backlog.done == 8


def test_no_unit_is_run_three_times() -> None:
    world = World(9, actors=3, in_flight=1, deadline=1e6)
    for actor in range(3):
        world.come_up(actor)
    while world.scheduler.backlog.left > 1:
        world.now += 2.0
        world.finish(world.busy()[-1])
    assert [type(action) for action in world.tick(5.0)] == [Assign]
    assert not any(isinstance(action, Assign) for action in world.tick(5.0))


def test_a_unit_that_is_about_to_end_is_not_run_twice() -> None:
    world = slow_end()
    world.move(0, 0.97)
    assert world.tick(0.1) == []


def test_the_unit_expected_to_take_longest_is_the_one_run_twice() -> None:
    world = World(12, actors=3, in_flight=1, deadline=1e6)
    for actor in range(3):
        world.come_up(actor)
    while world.scheduler.backlog.left > 2:
        world.now += 2.0
        world.finish(2)
    world.move(0, 0.5)
    world.move(1, 0.1)
    assert world.tick(0.1) == [Assign(2, world.hands[1][0])]


def test_a_unit_that_failed_before_is_not_run_twice() -> None:
    world = World(8, actors=2, in_flight=1, deadline=1e6)
    world.come_up(0)
    world.come_up(1)
    world.fail(0, hopeless=False)
    while world.scheduler.backlog.left > 1:
        world.now += 2.0
        world.finish(next(actor for actor in world.busy() if world.hands[actor] != [0]))
    assert not any(isinstance(action, Assign) for action in world.tick(8.0))


def test_the_failure_of_one_copy_leaves_the_unit_to_the_other() -> None:
    world = slow_end(attempts=1)
    world.tick(5.0)
    world.fail(1, hopeless=False)
    assert not world.set_aside() and world.hands[0] == [0]
    world.finish(0)
    assert world.scheduler.finished and world.done() == set(range(8))


def test_a_hopeless_copy_calls_the_other_off() -> None:
    world = slow_end()
    world.tick(5.0)
    world.fail(1, hopeless=True)
    assert world.scheduler.finished and world.set_aside() == {0: "it fails"}


def test_a_lost_copy_is_not_queued_again() -> None:
    world = slow_end()
    world.tick(5.0)
    world.lose(1, blameless=True)
    assert world.scheduler.backlog.waiting == 0 and world.hands == {0: [0]}


def test_an_idle_actor_is_given_what_another_has_in_its_second_hand() -> None:
    world = World(9, actors=1, maximum=2)
    world.come_up(0)
    world.come_up(1)
    assert world.hands[0] == [0, 1]
    while world.hands[1] or world.scheduler.backlog.waiting:
        world.finish(1)
    assert world.hands == {0: [0, 1], 1: []}
    assert world.tick(0.5) == [TakeBack(0, 1), Assign(1, 1)]


def test_a_unit_taken_back_that_was_done_all_the_same_is_done_once() -> None:
    world = World(30, actors=2)
    world.come_up(0)
    world.come_up(1)
    world.drain(0)
    world.tell(UnitDone(0, 1, world.now))
    assert world.done() == {1}
    world.work_on()
    assert world.scheduler.backlog.done == 30


def test_a_unit_set_aside_that_turns_out_to_be_committed_is_done() -> None:
    world = World(3, actors=1, in_flight=1, attempts=1)
    world.come_up(0)
    world.lose(0, blameless=False)
    assert world.scheduler.backlog.state(0) == SET_ASIDE
    world.tell(UnitDone(0, 0, world.now))
    assert world.done() == {0} and not world.set_aside()
