"""The end of a farm's queue, without Ray: what takes longest is run twice, and the first result wins."""

from farm_world import World

from raygen.cluster.farm.events import (
    Assign,
    Cancel,
    StopActor,
    UnitDone,
)
from raygen.cluster.farm.queue import SET_ASIDE


def slow_end(attempts: int = 3) -> World:
    """Two actors: one idles, the other is 30 times as long at its unit as is typical."""
    world = World(8, actors=2, in_flight=1, attempts=attempts, deadline=1e6)
    world.bring_up(0)
    world.bring_up(1)
    slow = world.in_flight[0][0]
    while world.scheduler.queue.left > 1:
        world.now += 2.0
        world.finish(1)
    assert world.in_flight == {0: [slow], 1: []}
    return world


def test_a_straggler_is_run_twice_and_the_first_result_wins() -> None:
    for winner, loser in ((0, 1), (1, 0)):
        world = slow_end()
        assert world.tick(5.0) == [Assign(1, 0)]
        unit = world.in_flight[winner].pop(0)
        assert world.handle(UnitDone(winner, unit, world.now)) == [StopActor(loser), StopActor(winner)]
        assert world.scheduler.finished and world.done() == set(range(8))
        assert world.handle(UnitDone(loser, unit, world.now)) == []
        assert world.scheduler.queue.done == 8


def test_no_unit_is_run_three_times() -> None:
    world = World(9, actors=3, in_flight=1, deadline=1e6)
    for actor in range(3):
        world.bring_up(actor)
    while world.scheduler.queue.left > 1:
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
        world.bring_up(actor)
    while world.scheduler.queue.left > 2:
        world.now += 2.0
        world.finish(2)
    world.move(0, 0.5)
    world.move(1, 0.1)
    assert world.tick(0.1) == [Assign(2, world.in_flight[1][0])]


def test_a_unit_that_failed_before_is_not_run_twice() -> None:
    world = World(8, actors=2, in_flight=1, deadline=1e6)
    world.bring_up(0)
    world.bring_up(1)
    world.fail(0, permanent=False)
    while world.scheduler.queue.left > 1:
        world.now += 2.0
        world.finish(next(actor for actor in world.busy() if world.in_flight[actor] != [0]))
    assert not any(isinstance(action, Assign) for action in world.tick(8.0))


def test_the_failure_of_one_copy_leaves_the_unit_to_the_other() -> None:
    world = slow_end(attempts=1)
    world.tick(5.0)
    world.fail(1, permanent=False)
    assert not world.set_aside() and world.in_flight[0] == [0]
    world.finish(0)
    assert world.scheduler.finished and world.done() == set(range(8))


def test_a_permanent_failure_of_one_copy_ends_the_other() -> None:
    world = slow_end()
    world.tick(5.0)
    world.fail(1, permanent=True)
    assert world.scheduler.finished and world.set_aside() == {0: "it fails"}


def test_a_lost_copy_is_not_requeued() -> None:
    world = slow_end()
    world.tick(5.0)
    world.lose(1, preempted=True)
    assert world.scheduler.queue.waiting == 0 and world.in_flight == {0: [0]}


def test_an_idle_actor_gets_the_unit_that_another_has_not_begun() -> None:
    world = World(9, actors=1, maximum=2)
    world.bring_up(0)
    world.bring_up(1)
    assert world.in_flight[0] == [0, 1]
    while world.in_flight[1] or world.scheduler.queue.waiting:
        world.finish(1)
    assert world.in_flight == {0: [0, 1], 1: []}
    assert world.tick(0.5) == [Cancel(0, 1), Assign(1, 1)]


def test_a_cancelled_unit_that_was_done_all_the_same_is_done_once() -> None:
    world = World(30, actors=2)
    world.bring_up(0)
    world.bring_up(1)
    world.drain(0)
    world.handle(UnitDone(0, 1, world.now))
    assert world.done() == {1}
    world.work_on()
    assert world.scheduler.queue.done == 30


def test_a_unit_set_aside_that_turns_out_to_be_committed_is_done() -> None:
    world = World(3, actors=1, in_flight=1, attempts=1)
    world.bring_up(0)
    world.lose(0, preempted=False)
    assert world.scheduler.queue.state(0) == SET_ASIDE
    world.handle(UnitDone(0, 0, world.now))
    assert world.done() == {0} and not world.set_aside()
