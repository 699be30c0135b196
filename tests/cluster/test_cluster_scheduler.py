"""The farm's decisions, without Ray: random orders of events, and a farm of hundreds in virtual time."""

import heapq
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.cluster.scheduler import (
    Action,
    ActorLost,
    ActorReady,
    Assign,
    Event,
    Scheduler,
    StartActor,
    StopActor,
    UnitDone,
    UnitFailed,
)


class World:
    """The actors as a scheduler's actions make them; every promise of the scheduler is checked at every action."""

    def __init__(self, units: list[str], *, actors: int, in_flight: int = 2, attempts: int = 3) -> None:
        self.scheduler = Scheduler(units, actors=actors, in_flight=in_flight, attempts=attempts)
        self.units, self.actors, self.in_flight, self.attempts = set(units), actors, in_flight, attempts
        self.ready: dict[int, bool] = {}
        self.hands: dict[int, list[str]] = {}
        self.gone: list[int] = []
        self.blamed: Counter[str] = Counter()
        self.hopeless: set[str] = set()
        self.ended: set[str] = set()
        self.most_alive = 0
        self.act(self.scheduler.begin())

    def act(self, actions: list[Action]) -> list[Action]:
        for action in actions:
            if isinstance(action, StartActor):
                assert action.actor not in self.ready
                assert action.actor not in self.gone
                self.ready[action.actor], self.hands[action.actor] = False, []
            elif isinstance(action, Assign):
                assert self.ready[action.actor]
                assert not any(action.unit in hand for hand in self.hands.values())
                assert action.unit not in self.ended
                self.hands[action.actor].append(action.unit)
                assert len(self.hands[action.actor]) <= self.in_flight
            else:
                assert not self.hands[action.actor]
                self.leave(action.actor)
            assert len(self.ready) <= self.actors
        self.most_alive = max(self.most_alive, len(self.ready))
        assert not self.scheduler.done & self.scheduler.set_aside.keys()
        assert self.ended <= self.scheduler.done | self.scheduler.set_aside.keys()
        self.ended |= self.scheduler.done | self.scheduler.set_aside.keys()
        in_hand = {unit for hand in self.hands.values() for unit in hand}
        assert not in_hand & self.ended
        assert self.scheduler.finished == (self.ended == self.units)
        return actions

    def leave(self, actor: int) -> list[str]:
        del self.ready[actor]
        self.gone.append(actor)
        return self.hands.pop(actor)

    def tell(self, event: Event) -> list[Action]:
        return self.act(self.scheduler.handle(event))

    def come_up(self, actor: int) -> None:
        self.ready[actor] = True
        self.tell(ActorReady(actor))

    def finish(self, actor: int) -> None:
        unit = self.hands[actor].pop(0)
        self.tell(UnitDone(actor, unit))
        assert unit in self.scheduler.done

    def fail(self, actor: int, *, hopeless: bool) -> None:
        unit = self.hands[actor].pop(0)
        self.blamed[unit] += 1
        if hopeless:
            self.hopeless.add(unit)
        self.tell(UnitFailed(actor, unit, "it fails", hopeless))
        assert (unit in self.scheduler.set_aside) == (hopeless or self.blamed[unit] == self.attempts)

    def lose(self, actor: int, *, blameless: bool) -> None:
        hand = self.leave(actor)
        if hand and not blameless:
            self.blamed[hand[0]] += 1
        self.tell(ActorLost(actor, "it died", blameless))

    def check_reasons(self) -> None:
        for unit, reason in self.scheduler.set_aside.items():
            assert unit in self.hopeless or self.blamed[unit] == self.attempts or reason.startswith("no actor starts")

    def work_on(self) -> None:
        """Let everything succeed from now on; it has to end."""
        for _ in range(10 * len(self.units) + 10 * self.actors + 10):
            if self.scheduler.finished and not self.ready:
                return
            actor = min(self.ready)
            if not self.ready[actor]:
                self.come_up(actor)
            elif self.hands[actor]:
                self.finish(actor)
            else:  # ready and idle while another is busy: let that one work
                busy = [number for number, hand in self.hands.items() if hand]
                self.finish(busy[0])
        raise AssertionError("the farm does not end")


def names(count: int) -> list[str]:
    return [f"u{number}" for number in range(count)]


def disturb(world: World, draw: st.DataObject) -> None:
    """Let something happen that can happen to the actors that there are, or to one that is gone."""
    kinds = ["late"] if world.gone else []
    kinds += ["ready"] * any(not up for up in world.ready.values())
    kinds += ["done", "done", "fail", "hopeless"] * any(world.hands.values())
    kinds += ["lost", "preempted"] * bool(world.ready)
    kind = draw.draw(st.sampled_from(kinds))
    if kind == "late":
        actor = draw.draw(st.sampled_from(world.gone))
        unit = draw.draw(st.sampled_from(sorted(world.units)))
        events = [ActorReady(actor), UnitDone(actor, unit), UnitFailed(actor, unit, "late", True)]
        assert world.tell(draw.draw(st.sampled_from([*events, ActorLost(actor, "late", False)]))) == []
    elif kind == "ready":
        world.come_up(draw.draw(st.sampled_from([actor for actor, up in world.ready.items() if not up])))
    elif kind in {"lost", "preempted"}:
        world.lose(draw.draw(st.sampled_from(sorted(world.ready))), blameless=kind == "preempted")
    else:
        actor = draw.draw(st.sampled_from([actor for actor, hand in world.hands.items() if hand]))
        if kind == "done":
            world.finish(actor)
        else:
            world.fail(actor, hopeless=kind == "hopeless")


@settings(deadline=None, max_examples=150)
@given(
    draw=st.data(),
    count=st.integers(0, 12),
    actors=st.integers(1, 5),
    in_flight=st.integers(1, 3),
    attempts=st.integers(1, 4),
    steps=st.integers(0, 60),
)
def test_in_any_order_of_events_every_unit_ends_exactly_once(
    draw: st.DataObject, count: int, actors: int, in_flight: int, attempts: int, steps: int
) -> None:
    world = World(names(count), actors=actors, in_flight=in_flight, attempts=attempts)
    for _ in range(steps):
        if not world.ready:
            break
        disturb(world, draw)
    if world.ready:
        world.work_on()
    scheduler = world.scheduler
    assert scheduler.done | scheduler.set_aside.keys() == world.units
    assert len(scheduler.done) + len(scheduler.set_aside) == count
    assert scheduler.finished
    assert not world.ready, "every actor that was started is stopped or lost"
    world.check_reasons()
    for unit in world.units - scheduler.set_aside.keys():
        assert world.blamed[unit] < attempts


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_unit_that_kills_its_actors_is_set_aside_after_so_many_attempts_and_the_others_are_done(
    attempts: int,
) -> None:
    world = World(names(6), actors=2, attempts=attempts)
    deaths = 0
    while not world.scheduler.finished:
        actor = min(world.ready)
        if not world.ready[actor]:
            world.come_up(actor)
        elif world.hands[actor][:1] == ["u2"]:
            deaths += 1
            world.lose(actor, blameless=False)
        elif world.hands[actor]:
            world.finish(actor)
        else:
            world.come_up(max(world.ready))
    assert deaths == attempts
    assert world.scheduler.set_aside == {"u2": "it died"}
    assert world.scheduler.done == set(names(6)) - {"u2"}


def test_a_death_blames_only_the_unit_that_the_actor_was_at() -> None:
    others = names(30)
    world = World(["at", *others], actors=1, attempts=2)
    for _ in range(2):
        actor = min(world.ready)
        world.come_up(actor)
        while world.hands[actor][0] != "at":
            world.finish(actor)
        world.lose(actor, blameless=False)
    assert world.scheduler.set_aside == {"at": "it died"}
    world.work_on()
    assert world.scheduler.done == set(others)


def test_what_an_actor_had_in_hand_behind_the_unit_it_was_at_is_never_blamed() -> None:
    world = World(names(60), actors=1, attempts=1)
    world.come_up(0)
    assert world.hands[0] == ["u0", "u1"]
    world.lose(0, blameless=False)
    assert world.scheduler.set_aside == {"u0": "it died"}
    world.come_up(1)
    assert world.hands[1][0] == "u1", "and goes first again"


def test_blameless_deaths_never_count() -> None:
    world = World(names(3), actors=1, attempts=1)
    for _ in range(50):
        actor = min(world.ready)
        world.come_up(actor)
        assert world.hands[actor][0] == "u0", "what was in hand goes first again"
        world.lose(actor, blameless=True)
    for _ in range(50):
        world.lose(min(world.ready), blameless=True)  # before it was up
    assert not world.scheduler.set_aside
    world.work_on()
    assert world.scheduler.done == set(names(3))


@pytest.mark.parametrize("actors", [1, 3])
def test_where_no_actor_starts_everything_is_set_aside_with_that_reason(actors: int) -> None:
    world = World(names(5), actors=actors)
    while world.ready:
        world.lose(min(world.ready), blameless=False)
    assert world.scheduler.finished
    assert world.scheduler.set_aside == dict.fromkeys(names(5), "no actor starts (it died)")


def test_actors_that_do_not_start_take_nothing_from_one_that_works() -> None:
    world = World(names(20), actors=2)
    world.come_up(0)
    for _ in range(10):
        starting = [actor for actor, up in world.ready.items() if not up]
        if not starting:
            break
        world.lose(starting[0], blameless=False)
    assert not world.scheduler.set_aside
    world.work_on()
    assert world.scheduler.done == set(names(20))


def test_a_farm_whose_first_actors_die_young_goes_on_with_those_that_are_still_starting() -> None:
    world = World(names(40), actors=20)
    for actor in range(5):
        world.lose(actor, blameless=False)
    assert not world.scheduler.set_aside
    world.work_on()
    assert world.scheduler.done == set(names(40))


def test_a_hopeless_failure_is_not_tried_again() -> None:
    world = World(names(3), actors=1)
    world.come_up(0)
    world.fail(0, hopeless=True)
    assert world.scheduler.set_aside == {"u0": "it fails"}
    world.work_on()
    assert world.scheduler.done == {"u1", "u2"}


def test_a_failure_goes_to_the_end_and_is_tried_again() -> None:
    world = World(names(4), actors=1, in_flight=1)
    world.come_up(0)
    world.fail(0, hopeless=False)
    order = []
    while not world.scheduler.finished:
        order += world.hands[0][:1]
        world.finish(0)
    assert order == ["u1", "u2", "u3", "u0"]


def test_nothing_to_do_starts_no_actor() -> None:
    scheduler = Scheduler([], actors=4)
    assert scheduler.begin() == []
    assert scheduler.finished


def test_no_more_actors_are_started_than_there_are_units() -> None:
    assert World(names(3), actors=100).most_alive == 3


def test_a_finished_scheduler_only_stops_an_actor_that_came_too_late() -> None:
    world = World(names(2), actors=2)
    world.come_up(0)
    world.finish(0)
    world.finish(0)
    assert world.scheduler.finished
    assert world.ready == {1: False}
    assert world.scheduler.handle(UnitDone(0, "u0")) == []
    assert world.scheduler.handle(ActorLost(0, "late", False)) == []
    assert world.scheduler.handle(ActorReady(1)) == [StopActor(1)]
    assert world.scheduler.handle(ActorReady(1)) == []


def test_the_second_unit_in_hand_is_left_to_an_idle_actor_at_the_end() -> None:
    world = World(names(4), actors=4)
    for actor in range(4):
        world.come_up(actor)
    assert [len(hand) for hand in world.hands.values()] == [1, 1, 1, 1]


@pytest.mark.parametrize(("units", "actors"), [(200, 7), (3000, 400)])
def test_a_farm_in_virtual_time_that_loses_actors_does_every_unit_once(units: int, actors: int) -> None:
    rng = np.random.default_rng(units)
    world = World(names(units), actors=actors, attempts=10)
    now, tick, clock = 0.0, 0, []
    committed: Counter[str] = Counter()
    planned: dict[int, str | None] = {}  # what each actor does next in virtual time

    def plan() -> None:
        nonlocal tick
        for actor, up in world.ready.items():
            next_unit = world.hands[actor][0] if world.hands[actor] else None
            if actor in planned and planned[actor] == next_unit and up:
                continue
            if actor in planned and not up:
                continue
            if up and next_unit is None:
                continue
            planned[actor] = next_unit
            tick += 1
            heapq.heappush(clock, (now + rng.lognormal(0.0, 1.0), tick, actor, next_unit, rng.random() < 0.05))

    plan()
    while clock:
        now, _, actor, unit, dies = heapq.heappop(clock)
        if actor not in world.ready:
            continue
        if dies:
            planned.pop(actor)
            world.lose(actor, blameless=bool(rng.random() < 0.5))
        elif unit is None:
            world.come_up(actor)
        else:
            committed[unit] += 1
            world.finish(actor)
        plan()
    assert world.scheduler.finished
    assert not world.ready
    assert not world.scheduler.set_aside
    assert committed == Counter(names(units))
    assert world.most_alive == actors


def test_what_a_lost_actor_had_finished_is_done_and_only_the_next_is_blamed():
    scheduler = Scheduler([f"u{number}" for number in range(20)], actors=1, in_flight=2, attempts=1)
    scheduler.begin()
    scheduler.handle(ActorReady(0))
    scheduler.handle(ActorLost(0, "it died", blameless=False, finished=("u0",)))
    assert scheduler.done == {"u0"} and set(scheduler.set_aside) == {"u1"}
