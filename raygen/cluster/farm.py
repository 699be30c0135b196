"""The pool of actors that samples a run's units: Ray's edge of the scheduler."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from raygen.cluster.scheduler import Action, ActorLost, ActorReady, Assign, Event, Scheduler, StartActor, UnitDone
from raygen.cluster.scheduler import UnitFailed as _UnitFailed
from raygen.cluster.session import capacity
from raygen.errors import RaygenError, SettingsError
from raygen.networks import Network
from raygen.sampling import (
    FarmReport,
    Profile,
    SamplingSettings,
    Source,
    UnitProgress,
    UnitReport,
    UnitSampler,
    keep_freed_memory,
    sample_unit,
)
from raygen.store import Run, Unit

_TICK = 0.5
"""Seconds between two looks at the actors' progress."""


class SamplingActor:
    """Samples one unit at a time, commits it, and returns a few numbers."""

    def __init__(
        self,
        run: Run,
        network: Network,
        images: Source,
        settings: SamplingSettings,
        profile: Profile,
        threads: int,
        gpu: bool,
    ) -> None:
        keep_freed_memory()
        self._run = run
        self._threads = threads
        self._sampler = UnitSampler(network, settings, images, torch.device("cuda" if gpu else "cpu"), profile)
        self._progress = UnitProgress(0.0, math.nan)

    def ready(self) -> None:
        """Return once the actor can take work."""

    def sample(self, unit: Unit) -> UnitReport | str:
        """Sample and commit a unit; return an error's line where trying again cannot help."""
        torch.set_num_threads(self._threads)
        self._progress = UnitProgress(0.0, math.nan)
        try:
            return sample_unit(self._run, self._sampler, unit, self._note)
        except RaygenError as error:
            return str(error)

    def progress(self) -> UnitProgress:
        """Return how far the unit in hand is; answered while it runs."""
        return self._progress

    def _note(self, progress: UnitProgress) -> None:
        self._progress = progress


@dataclass(frozen=True)
class _Call:
    """What a pending reference stands for."""

    actor: int
    unit: str | None = None  # None: the actor's start
    progress: bool = False


class Farm:
    """Runs the units that a run still lacks on a pool of actors.

    Args:
        run: on storage that every machine reaches.
        network: sent to each machine once.
        images: what the reference is fitted to, or a saved reference; sent likewise.
        settings: what decides the samples.
        profile: by layer, settings that go before the others.
        actors: how many.
        threads: CPU threads of each.
        gpus: share of a GPU of each; 0 samples on the CPU.
    """

    def __init__(
        self,
        run: Run,
        network: Network,
        images: Source,
        settings: SamplingSettings,
        *,
        profile: Profile,
        actors: int,
        threads: int,
        gpus: float,
    ) -> None:
        done = run.done()
        self._all = run.units()
        self._units = {unit.name: unit for unit in self._all if unit.name not in done}
        self._scheduler = Scheduler(self._units, actors=actors)
        remote: Any = ray.remote  # its stubs do not know classes with options
        self._factory = remote(num_cpus=threads, num_gpus=gpus, max_restarts=0, concurrency_groups={"progress": 1})(
            SamplingActor
        )
        self._arguments = (run, ray.put(network), ray.put(images), settings, profile, threads, gpus > 0)
        self._handles: dict[int, Any] = {}
        self._calls: dict[Any, _Call] = {}
        self._progress: dict[int, UnitProgress] = {}
        self._reports: list[UnitReport] = []

    def run(self, on_progress: Callable[[FarmReport], None]) -> FarmReport:
        """Work until every unit is done or set aside; return the final report."""
        start = time.monotonic()
        self._act(self._scheduler.begin())
        last = 0.0
        while not self._scheduler.finished:
            ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=_TICK)
            for reference in ready:
                self._settle(reference)
            if time.monotonic() - last >= _TICK:
                last = time.monotonic()
                self._ask_progress()
                on_progress(self._report(last - start))
        for handle in self._handles.values():
            ray.kill(handle)
        return self._report(time.monotonic() - start)

    def _settle(self, reference: Any) -> None:
        call = self._calls.pop(reference)
        try:
            value = ray.get(reference)
        except RayActorError as error:
            self._lost(call.actor, error)
        except RayTaskError as error:
            if call.unit is not None:
                self._handle(_UnitFailed(call.actor, call.unit, _line(error), hopeless=False))
            elif not call.progress:
                self._lost(call.actor, error)
        else:
            self._take(call, value)

    def _take(self, call: _Call, value: Any) -> None:
        if call.progress:
            self._progress[call.actor] = value
        elif call.unit is None:
            self._handle(ActorReady(call.actor))
        elif isinstance(value, str):
            self._handle(_UnitFailed(call.actor, call.unit, value, hopeless=True))
        else:
            self._reports.append(value)
            self._progress.pop(call.actor, None)  # it is of the unit that is now done
            self._handle(UnitDone(call.actor, call.unit))

    def _lost(self, actor: int, error: Exception) -> None:
        if (handle := self._handles.pop(actor, None)) is None:
            return
        finished = self._take_finished(actor)
        self._progress.pop(actor, None)
        self._calls = {reference: call for reference, call in self._calls.items() if call.actor != actor}
        blameless = isinstance(error, ActorUnavailableError) or bool(getattr(error, "preempted", False))
        if isinstance(error, ActorUnavailableError | RayTaskError):
            ray.kill(handle)  # it may still be alive, and must not go on with what others now have in hand
        self._handle(ActorLost(actor, _line(error), blameless, finished))

    def _take_finished(self, actor: int) -> tuple[str, ...]:
        """Return the units that an actor finished before it was lost: none is to be blamed, or made again."""
        mine = {reference: call.unit for reference, call in self._calls.items() if call.actor == actor and call.unit}
        ready, _ = ray.wait(list(mine), num_returns=len(mine), timeout=0) if mine else ([], [])
        reports = []
        for reference in ready:
            try:
                value = ray.get(reference)
            except (RayActorError, RayTaskError):
                continue
            if isinstance(value, UnitReport):
                reports.append(value)
        self._reports += reports
        return tuple(report.unit for report in reports)

    def _handle(self, event: Event) -> None:
        self._act(self._scheduler.handle(event))

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, StartActor):
                handle: Any = self._factory.remote(*self._arguments)
                self._handles[action.actor] = handle
                self._calls[handle.ready.remote()] = _Call(action.actor)
            elif isinstance(action, Assign):
                reference = self._handles[action.actor].sample.remote(self._units[action.unit])
                self._calls[reference] = _Call(action.actor, action.unit)
            else:
                ray.kill(self._handles.pop(action.actor))
                self._progress.pop(action.actor, None)
                self._calls = {ref: call for ref, call in self._calls.items() if call.actor != action.actor}

    def _ask_progress(self) -> None:
        asked = {call.actor for call in self._calls.values() if call.progress}
        busy = {call.actor for call in self._calls.values() if call.unit is not None}
        for actor in busy - asked:
            method = self._handles[actor].progress.options(concurrency_group="progress")
            self._calls[method.remote()] = _Call(actor, progress=True)

    def _report(self, seconds: float) -> FarmReport:
        return FarmReport(
            units=len(self._all),
            before=len(self._all) - len(self._units),
            reports=tuple(self._reports),
            running=tuple(self._progress[number] for number in self._handles if number in self._progress),
            actors=len(self._handles),
            set_aside=dict(self._scheduler.set_aside),
            seconds=seconds,
        )


def farm_actors(asked: int | None, *, threads: int, gpus: float) -> int:
    """Return how many actors to keep: those asked for, or as many as fit on the cluster as it is.

    Raises:
        SettingsError: if not even one fits.
    """
    room = capacity(cpus=threads, gpus=gpus)
    if room < 1:
        raise SettingsError(f"an actor of {threads} CPUs and {gpus:g} GPUs does not fit on the cluster", where="actors",
                            right="ask for fewer threads or GPUs, or for a larger cluster")  # fmt: skip
    return min(asked, room) if asked else room


def _line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
