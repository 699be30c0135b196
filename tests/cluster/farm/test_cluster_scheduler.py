"""The farm's decisions about units and actors, without Ray."""

import pytest
from farm_world import World

from raygen.cluster.farm.events import (
    ActorReady,
    Assign,
    Cancel,
    StartActor,
    StopActor,
    UnitDone,
)
from raygen.cluster.farm.queue import DONE, UnitQueue
from raygen.cluster.farm.scheduler import Scheduler

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
            world.bring_up(actor)
        elif world.in_flight[actor][:1] == [2]:
            deaths += 1
            world.lose(actor, preempted=False)
        elif world.in_flight[actor]:
            world.finish(actor)
        else:
            world.bring_up(max(world.ready))
    assert deaths == attempts
    assert world.set_aside() == {2: "it died"}
    assert world.done() == set(range(6)) - {2}


def test_a_death_counts_against_the_current_unit_only() -> None:
    world = World(31, actors=1, attempts=2)
    for _ in range(2):
        (actor,) = world.ready
        world.bring_up(actor)
        while world.in_flight[actor][0] != 0:
            world.finish(actor)
        world.lose(actor, preempted=False)
    assert world.set_aside() == {0: "it died"}
    world.work_on()
    assert world.done() == set(range(1, 31))


def test_a_preempted_actor_costs_its_unit_nothing_and_it_goes_first() -> None:
    world = World(20, actors=1, attempts=1)
    for _ in range(5):
        (actor,) = world.ready
        world.bring_up(actor)
        assert world.in_flight[actor] == [0, 1]
        world.lose(actor, preempted=True)
    world.work_on()
    assert world.done() == set(range(20))


def test_what_a_lost_actor_had_finished_is_done_and_only_the_next_counts_a_failure() -> None:
    world = World(20, actors=1, attempts=1)
    world.bring_up(0)
    world.lose(0, preempted=False, finished=1)
    assert world.done() == {0} and set(world.set_aside()) == {1}


def test_a_permanent_failure_is_not_tried_again() -> None:
    world = World(3, actors=1)
    world.bring_up(0)
    world.fail(0, permanent=True)
    assert world.set_aside() == {0: "it fails"}
    world.work_on()
    assert world.done() == {1, 2}


def test_a_failure_goes_to_the_end_and_is_tried_again() -> None:
    world = World(4, actors=1, in_flight=1)
    world.bring_up(0)
    world.fail(0, permanent=False)
    order = []
    while not world.scheduler.finished:
        order.append(world.finish(0))
    assert order == [1, 2, 3, 0]


# ---- actors that do not start


def test_where_no_actor_starts_it_is_tried_less_and_less_and_then_all_is_set_aside() -> None:
    world = World(5, actors=1)
    pauses = []
    while world.ready:
        world.lose(max(world.ready), preempted=False)
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
        world.lose(max(world.ready), preempted=True)
    world.work_on()
    assert world.done() == set(range(5))


def test_a_farm_whose_first_starts_fail_continues_with_those_that_are_still_starting() -> None:
    world = World(40, actors=20)
    for actor in range(5):
        world.lose(actor, preempted=False)
    assert not world.set_aside()
    world.work_on()
    assert world.done() == set(range(40))


def test_an_actor_that_is_ready_ends_the_pause() -> None:
    world = World(40, actors=4)
    for actor in range(3):
        world.lose(actor, preempted=False)
    assert world.starting() == [3]
    world.bring_up(3)
    assert len(world.ready) == 4


# ---- how many actors


def test_nothing_to_do_starts_no_actor() -> None:
    world = World(0, actors=4)
    assert world.scheduler.finished and not world.gone


def test_what_was_done_before_is_not_done_again() -> None:
    scheduler = Scheduler(UnitQueue(bytearray([DONE, 0, DONE, 0])), minimum=1, maximum=1)
    scheduler.begin()
    assert scheduler.handle(ActorReady(0, 0.0)) == [Assign(0, 1)]
    assert scheduler.handle(UnitDone(0, 1, 0.0)) == [Assign(0, 3)]
    assert scheduler.handle(UnitDone(0, 3, 0.0)) == [StopActor(0)]
    assert scheduler.finished and scheduler.queue.done == 2


def test_no_more_actors_are_started_than_there_are_units() -> None:
    assert World(3, actors=100).most == 3


def test_the_pool_grows_to_its_maximum_by_halves_and_never_floods_a_small_cluster() -> None:
    world = World(2000, actors=2, maximum=300)
    waits = []
    while starting := world.starting():
        waits.append(len(starting))
        for actor in starting:
            world.bring_up(actor)
    assert waits[0] == 4 and len(waits) < 20
    assert all(wait <= max(4, sum(waits[:index])) for index, wait in enumerate(waits))
    assert len(world.ready) == world.most == 300


def test_actors_that_no_machine_takes_do_not_become_more() -> None:
    world = World(1000, actors=2, maximum=5000)
    for actor in (0, 1):
        world.bring_up(actor)
    for _ in range(100):
        world.finish(0)
        world.tick(1.0)
    assert len(world.starting()) == 4


def test_starts_that_the_rest_does_not_need_are_stopped() -> None:
    world = World(12, actors=10)
    world.bring_up(0)
    for _ in range(5):
        world.finish(0)
    assert len(world.starting()) == world.scheduler.queue.waiting == 6
    assert world.gone == [9, 8, 7]


def test_at_the_end_a_second_unit_is_left_to_an_idle_actor() -> None:
    world = World(4, actors=4)
    for actor in range(4):
        world.bring_up(actor)
    assert [len(units) for units in world.in_flight.values()] == [1, 1, 1, 1]


def test_an_actor_with_nothing_to_do_is_stopped_after_a_while() -> None:
    world = World(2, actors=2)
    world.bring_up(0)
    world.bring_up(1)
    world.now = 20.0
    world.move(1, 0.9)
    world.finish(0)
    assert world.tick(9.0) == []
    assert world.tick(2.0) == [StopActor(0)]
    assert world.tick(50.0) == []


def test_an_idle_actor_takes_the_unit_of_one_that_is_lost() -> None:
    world = World(2, actors=2)
    world.bring_up(0)
    world.bring_up(1)
    world.finish(0)
    world.lose(1, preempted=True)
    assert world.in_flight == {0: [1]}


# ---- machines that drain


def test_an_actor_on_a_draining_machine_ends_its_unit_gets_no_other_and_is_replaced() -> None:
    world = World(30, actors=2)
    world.bring_up(0)
    world.bring_up(1)
    assert world.in_flight == {0: [0, 1], 1: [2, 3]}
    assert world.drain(0) == [Cancel(0, 1), StartActor(2)]
    world.bring_up(2)
    assert world.in_flight[2][0] == 1, "a cancelled unit goes first"
    world.finish(0)
    assert 0 in world.gone and 0 in world.done()
    assert world.most == 2


def test_a_loss_on_a_draining_machine_counts_against_no_unit() -> None:
    world = World(30, actors=1, attempts=1)
    world.bring_up(0)
    world.drain(0)
    world.lose(0, preempted=False)
    world.work_on()
    assert world.done() == set(range(30))


# ---- actors that hang


def test_an_actor_without_progress_is_stopped_its_unit_counts_a_failure_and_the_other_does_not() -> None:
    world = World(10, actors=1, attempts=1, deadline=50.0)
    world.bring_up(0)
    assert world.in_flight[0] == [0, 1]
    assert world.tick(49.0) == []
    assert world.tick(2.0) == [StopActor(0), StartActor(1)]
    assert world.set_aside() == {0: "no progress for 50 s"}
    world.bring_up(1)
    assert world.in_flight[1][0] == 1
    world.work_on()
    assert world.done() == set(range(1, 10))


def test_progress_moves_the_deadline_and_no_progress_does_not() -> None:
    world = World(1, actors=1, deadline=50.0)
    world.bring_up(0)
    for fraction in (0.1, 0.2, 0.3):
        world.tick(40.0)
        world.move(0, fraction)
    world.tick(40.0)
    world.move(0, 0.3)
    assert StopActor(0) in world.tick(11.0)


def test_the_deadline_of_a_unit_counts_from_its_own_start() -> None:
    world = World(10, actors=1, deadline=50.0)
    world.bring_up(0)
    for _ in range(5):
        world.tick(40.0)
        world.finish(0)
    assert world.tick(40.0) == []


def test_a_unit_that_hangs_again_and_again_is_set_aside() -> None:
    world = World(3, actors=1, in_flight=1, deadline=50.0)
    while not world.scheduler.finished:
        (actor,) = world.ready
        if not world.ready[actor]:
            world.bring_up(actor)
        elif world.in_flight[actor] == [1]:
            world.tick(51.0)
        else:
            world.finish(actor)
    assert world.set_aside() == {1: "no progress for 50 s"}
