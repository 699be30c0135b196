"""``raygen bench farm``: what it costs beside bare processes, how fast it hands out, and a farm in virtual time."""

from __future__ import annotations

import time
from collections.abc import Iterator

from raygen.bench.farm_simulation import Conditions, simulate
from raygen.bench.results import Result, single
from raygen.bench.settings import FarmBenchSettings

_SHARE, _TIME = 0.95, 60.0
"""Targets: share of the actors' time that is work, seconds of a simulation."""


def bench_farm(settings: FarmBenchSettings) -> Iterator[Result]:
    """Yield the farm's speed against bare processes, its overhead, its own speed and memory, and a simulation.

    Raises:
        SettingsError: if there are not two CPUs for two actors.
    """
    if settings.virtual_units:
        yield from _simulation(settings)
    if settings.rounds or settings.idle_units:
        from raygen.bench.farm_speed import measure  # noqa: PLC0415  (only here Ray is needed)

        yield from measure(settings)


def _simulation(settings: FarmBenchSettings) -> Iterator[Result]:
    conditions = Conditions(actors=settings.virtual_actors, units=settings.virtual_units)
    start = time.perf_counter()
    course = simulate(conditions)
    seconds = time.perf_counter() - start
    case = f"{conditions.actors:,} actors in virtual time"
    once = sum(count >= 1 for count in course.commits)
    busy = course.busy / (conditions.actors * course.queue_seconds)
    done = course.scheduler.queue.done
    yield single("farm", f"{case}, units done, against the plan", "units", done, conditions.units)
    yield single("farm", f"{case}, units committed, against the plan", "units", once, conditions.units)
    yield single("farm", f"{case}, busy until the queue is empty, against the target", "share", busy, _SHARE)
    yield single("farm", f"{case}, real time, against the target", "s", seconds, _TIME)
