"""Two actors of a farm against two bare processes that do the same units."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from raygen.bench.farm_actors import Gate, GatedActor
from raygen.bench.results import Result
from raygen.cluster import Farm, PoolSize, sampling_kind
from raygen.errors import SettingsError
from raygen.networks import NetworkSettings, list_layers, load_network, parse_nodes
from raygen.process import keep_freed_memory
from raygen.runs import SAVE_EVERY, FarmReport, begin_run, sample_unit
from raygen.sampling import SamplingSettings, UnitSampler
from raygen.store import Run

_NETWORK = NetworkSettings.parse({"weights": "random"}, where="bench farm")

_START, _BUSY = 10.0, 0.95
"""What is asked for: seconds until two actors are up, and the share of their time that they are at units."""


def result(case: str, unit: str, value: float, baseline: float) -> Result:
    """Return a case of this benchmark that is measured once."""
    return Result("farm", case, value, unit, baseline, value / baseline if baseline else float("nan"))


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


def against_processes(units: int, draws: int, rounds: int) -> Iterator[Result]:
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
    yield result("least of these ratios, against the most", "", ratios[0], ratios[-1])
    took = [(2000 * course.each / course.speed, 2000 * course.each / below) for course, below in pairs]
    yield result("a unit on an actor, against a bare process", "ms",
                 *(statistics.median(side) for side in zip(*took, strict=True)))  # fmt: skip
    busy = statistics.median(course.busy for course in courses)
    yield result("actors at units once they are up, against the target", "share", busy, _BUSY)
    yield result("until 2 actors are up, against the target", "s", statistics.median(c.start for c in courses), _START)


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
