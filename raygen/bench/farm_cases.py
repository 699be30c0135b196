"""The cases of ``raygen bench farm``; they need Ray."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from raygen.bench.farm_actors import IdleActor, IdlePlan
from raygen.bench.farm_settings import FarmBenchSettings
from raygen.bench.farm_simulation import Conditions, simulate
from raygen.bench.farm_speed import against_processes, result
from raygen.bench.results import Result
from raygen.cluster import ActorKind, Farm, PoolSize, pool_size, session
from raygen.errors import SettingsError
from raygen.runs import FarmReport

_RATE, _SHARE, _TIME = 500.0, 0.95, 60.0
"""What is asked for: units a second, share of a bare process and of the actors' time, seconds of a simulation."""


def measure(settings: FarmBenchSettings) -> Iterator[Result]:
    """Yield the farm's speed against bare processes, its overhead, its own speed and memory, and a simulation.

    Raises:
        SettingsError: if there are not two CPUs for two actors.
    """
    if settings.virtual_units:
        yield from _simulation(settings)
    if not settings.rounds and not settings.idle_units:
        return
    with session():
        if pool_size(2, None, threads=1, gpus=0).minimum < 2:
            raise SettingsError("there is one CPU", where="bench farm", right="run it where there are two")
        if settings.idle_units:
            yield from _idle(settings.idle_units)
        if settings.rounds:
            yield from against_processes(settings.units, settings.draws, settings.rounds)


def _simulation(settings: FarmBenchSettings) -> Iterator[Result]:
    conditions = Conditions(actors=settings.virtual_actors, units=settings.virtual_units)
    start = time.perf_counter()
    course = simulate(conditions)
    seconds = time.perf_counter() - start
    case = f"{conditions.actors:,} actors in virtual time"
    once = sum(count >= 1 for count in course.commits)
    busy = course.busy / (conditions.actors * course.queue_seconds)
    yield result(f"{case}, units done, against the plan", "units", course.scheduler.queue.done, conditions.units)
    yield result(f"{case}, units committed, against the plan", "units", once, conditions.units)
    yield result(f"{case}, busy until the queue is empty, against the target", "share", busy, _SHARE)
    yield result(f"{case}, real time, against the target", "s", seconds, _TIME)


def _idle(units: int) -> Iterator[Result]:
    memory = _resident()
    for count in (units, 10 * units):
        first: list[tuple[float, int]] = []

        def note(report: FarmReport, seen: list[tuple[float, int]] = first) -> None:
            # What comes before is the actors' start.
            if report.done and not seen:
                seen.append((time.monotonic(), report.done))

        kind, size = ActorKind(IdleActor), PoolSize(2, 2)
        report = Farm(IdlePlan(count), bytearray(count), kind, size=size, deadline=600, name="bench").run(note)
        began, done = first[0] if first else (time.monotonic() - report.seconds, 0)
        rate = (report.done - done) / (time.monotonic() - began)
        yield result(f"{count:,} units without work, against the target", "units/s", rate, _RATE)
        before, memory = memory, _resident()
        if count > units:
            yield result(f"driver's memory after {count:,} units, against {units:,}", "MB", memory, before)


def _resident() -> float:
    """Return this process's memory in MB; where that is not told, its peak."""
    status = Path("/proc/self/status")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024 / 1e6
