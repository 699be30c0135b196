"""A farm on real actors: its own costs, and two of its actors against two bare processes that do the same units."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import psutil
import torch

from raygen.bench.results import Result, single
from raygen.bench.settings import FarmBenchSettings
from raygen.cluster import ActorKind, Farm, FarmActor, PoolSize, SamplingActor, pool_size, sampling_kind, session
from raygen.errors import SettingsError
from raygen.networks import NetworkSettings, list_layers, load_network, parse_nodes
from raygen.process import keep_freed_memory
from raygen.runs import SAVE_EVERY, FarmReport, UnitReport, begin_run, sample_unit
from raygen.sampling import SamplingSettings, UnitSampler
from raygen.store import Run, Unit

_NETWORK = NetworkSettings.parse({"weights": "random"}, where="bench farm")

_RATE, _START, _BUSY = 500.0, 10.0, 0.95
"""Targets: units without work a second, seconds until two actors are up, share of their time that they are at units."""


def measure(settings: FarmBenchSettings) -> Iterator[Result]:
    """Yield the farm's own speed and memory, and its speed against bare processes.

    Raises:
        SettingsError: if there are not two CPUs for two actors.
    """
    with session():
        if pool_size(2, None, threads=1, gpus=0).minimum < 2:
            raise SettingsError("there is one CPU", where="bench farm", right="run it where there are two")
        if settings.idle_units:
            yield from _idle(settings.idle_units)
        if settings.rounds:
            yield from _against_processes(settings.units, settings.draws, settings.rounds)


# What the farm itself costs


def _idle(units: int) -> Iterator[Result]:
    memory = _memory()
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
        yield single("farm", f"{count:,} units without work, against the target", "units/s", rate, _RATE)
        before, memory = memory, _memory()
        if count > units:
            yield single("farm", f"driver's memory after {count:,} units, against {units:,}", "MB", memory, before)


def _memory() -> float:
    """Return this process's memory in MB."""
    return float(psutil.Process().memory_info().rss) / 1e6


class IdleActor(FarmActor):
    """Does nothing with a unit: what is left is what the farm itself costs."""

    def sample(self, number: int, unit: Unit) -> UnitReport | str:
        """Return at once."""
        return UnitReport(unit.name, unit.layer, 0, 0, math.nan, len(unit.nodes), 0, 0.0)


class IdlePlan(Sequence[Unit]):
    """So many units, none of which takes memory."""

    def __init__(self, units: int) -> None:
        self._units = units

    def __len__(self) -> int:
        return self._units

    @overload
    def __getitem__(self, index: int) -> Unit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Unit]: ...
    def __getitem__(self, index: int | slice) -> Unit | Sequence[Unit]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return Unit(f"layer-{index:07d}", "layer", (f"layer:{index}",), 1)


# Against bare processes


@dataclass(frozen=True)
class _Course:
    """How two actors worked.

    Attributes:
        speed: chain-gradients a second once they were up.
        start: seconds until then.
        each: gradients of a unit.
        busy: the share of their time that they were at units.
    """

    speed: float
    start: float
    each: float
    busy: float


def _against_processes(units: int, draws: int, rounds: int) -> Iterator[Result]:
    """Yield the speed of 2 actors of a thread each against 2 bare processes, what that is a unit, and their start."""
    pairs: list[tuple[_Course, float]] = []
    asked = {"chains": 8, "batch": 8, "draws": draws, "thin": 2, "warm_up": 20, "steps": 8, "tilt": 1.0}
    sampling = SamplingSettings.parse(asked, where="bench farm")
    for number in range(rounds + 1):
        with _run(units, sampling) as run, _run(units, sampling) as bare:
            below = _processes(bare, sampling) if number % 2 else 0.0
            course = _farm(run, sampling)
            below = below or _processes(bare, sampling)
        if number:  # the first warms up
            pairs.append((course, below))
    courses = [course for course, _ in pairs]
    ours, bare_speed = (statistics.median(side) for side in ((c.speed for c in courses), (below for _, below in pairs)))
    ratios = sorted(course.speed / below for course, below in pairs)
    yield Result("farm", "2 actors, against 2 bare processes", ours, "chain-gradients/s", bare_speed,
                 statistics.median(ratios))  # fmt: skip
    yield single("farm", "least of these ratios, against the most", "", ratios[0], ratios[-1])
    took = [(2000 * course.each / course.speed, 2000 * course.each / below) for course, below in pairs]
    yield single("farm", "a unit on an actor, against a bare process", "ms",
                 *(statistics.median(side) for side in zip(*took, strict=True)))  # fmt: skip
    busy = statistics.median(course.busy for course in courses)
    yield single("farm", "actors at units once they are up, against the target", "share", busy, _BUSY)
    start = statistics.median(course.start for course in courses)
    yield single("farm", "until 2 actors are up, against the target", "s", start, _START)


def _farm(run: Run, sampling: SamplingSettings) -> _Course:
    with tempfile.TemporaryDirectory() as folder:
        gate, plan = Gate(Path(folder), 2), run.plan
        kind = sampling_kind(
            run, load_network(_NETWORK), None, sampling, profile={}, threads=1, gpus=0, save_every=SAVE_EVERY
        )
        kind = replace(kind, actor=GatedActor, arguments=(gate, *kind.arguments))
        start = time.time()
        report = Farm(plan, bytearray(len(plan)), kind, size=PoolSize(2, 2), deadline=600, name="bench").run(_hush)
        seconds, made = time.time() - gate.opened, report.made
        return _Course(
            speed=made.gradients / seconds,
            start=gate.opened - start,
            each=made.gradients / len(plan),
            busy=made.seconds / (2 * seconds),
        )


def _processes(run: Run, sampling: SamplingSettings) -> float:
    """Return chain-gradients a second of two bare processes once they are up."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(Path(folder), 2)
        # Each takes the next, as an actor does.
        turn, made, ended = context.Value("q", 0), context.Value("q", 0), context.Value("d", 0.0)
        shared = (run, sampling, gate, turn, made, ended)
        workers = [context.Process(target=_work, args=shared) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise SettingsError("a bare process failed", where="bench farm", right="see what it said")
        return float(made.value / (ended.value - gate.opened))


def _work(run: Run, sampling: SamplingSettings, gate: Gate, turn: Any, made: Any, ended: Any) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    network = load_network(_NETWORK)
    sampler, plan = UnitSampler(network, sampling, None, torch.device("cpu"), {}), run.plan
    gate.pass_through()
    while True:
        with turn.get_lock():
            number = turn.value
            turn.value += 1
        if number >= len(plan):
            break
        report = sample_unit(run, sampler, plan[number])
        with made.get_lock():
            made.value += report.gradients
    with ended.get_lock():
        ended.value = max(ended.value, time.time())


@contextmanager
def _run(units: int, sampling: SamplingSettings) -> Iterator[Run]:
    network = load_network(_NETWORK)
    nodes = parse_nodes(f"conv2:0-{units - 1}", network, list_layers(network))
    with tempfile.TemporaryDirectory() as folder:
        yield begin_run(str(Path(folder) / "run"), network, nodes, sampling, images=None, about={})


def _hush(_: FarmReport) -> None:
    pass


class GatedActor(SamplingActor):
    """Takes work once all others can, so that none has a start before the others."""

    def __init__(self, gate: Gate, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._gate = gate

    def ready(self) -> str:
        """Return when all are there."""
        self._gate.pass_through()
        return super().ready()


class Gate:
    """A folder where so many processes wait for each other.

    Args:
        folder: on a disk that they share.
        guests: how many.
    """

    def __init__(self, folder: Path, guests: int) -> None:
        self._folder, self._guests = folder, guests

    def pass_through(self) -> None:
        """Return once all have come; the first to see it notes the time."""
        (self._folder / f"{time.time_ns()}.{id(self)}.come").touch()
        while len(list(self._folder.glob("*.come"))) < self._guests:
            time.sleep(0.005)

    @property
    def opened(self) -> float:
        """When the last came, in seconds of the clock."""
        return max(int(path.name.partition(".")[0]) for path in self._folder.glob("*.come")) / 1e9
