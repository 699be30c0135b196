"""The scheduler with thousands of actors, in virtual time."""

from collections import Counter

import pytest

from raygen.bench.farm import Conditions, Course, simulate


def check(course: Course, conditions: Conditions) -> None:
    """Every unit is done, and counted once; where two actors had one, the second result came to nothing."""
    queue = course.scheduler.queue
    assert (queue.done, queue.set_aside, queue.left) == (conditions.units, 0, 0)
    assert set(Counter(course.commits)) == {1}
    assert not course.scheduler.pool.slots, "no actor is left"


@pytest.mark.parametrize("seed", range(3))
def test_hundreds_of_actors_that_come_and_go_do_every_unit_once_and_are_busy(seed: int) -> None:
    conditions = Conditions(actors=200, units=20_000, start_seconds=60.0, lost_per_hour=0.2, seed=seed)
    course = simulate(conditions)
    check(course, conditions)
    assert course.lost > 10
    assert course.busy >= 0.95 * conditions.actors * course.queue_seconds


def test_units_that_hang_are_done_elsewhere() -> None:
    conditions = Conditions(actors=50, units=2_000, hung=0.01, deadline=300.0)
    course = simulate(conditions)
    check(course, conditions)


def test_a_pool_that_starts_small_grows_to_its_maximum_and_stays_busy() -> None:
    conditions = Conditions(actors=300, units=60_000, minimum=3, start_seconds=30.0)
    course = simulate(conditions)
    check(course, conditions)
    assert course.busy >= 0.99 * course.up
    assert course.busy >= 0.9 * conditions.actors * course.queue_seconds


def test_second_runs_shorten_the_end_where_machines_are_slow_by_chance() -> None:
    conditions = Conditions(actors=100, units=1_000, spread=2.0, lost_per_hour=0.0)
    course = simulate(conditions)
    check(course, conditions)
    # The longest of 1,000 units would take over 40 times the mean alone.
    assert course.seconds - course.queue_seconds < 20 * conditions.unit_seconds


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_5000_actors_do_a_million_units_while_machines_are_taken_away() -> None:
    conditions = Conditions()
    assert (conditions.actors, conditions.units, conditions.lost_per_hour) == (5_000, 1_000_000, 0.05)
    course = simulate(conditions)
    check(course, conditions)
    assert course.lost > 100
    assert course.busy >= 0.95 * conditions.actors * course.queue_seconds
