"""How far a run is, for whoever asks from another terminal: written by the driver now and then, read with the run.

It is read without pyarrow where the driver has written the number of units: the done ones are counted by their files.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raygen.documents import LARGEST, parse_json
from raygen.errors import StoreError
from raygen.runs.reports import FarmReport
from raygen.storage import Location
from raygen.store import Holder, Run, is_held, read_holder, seeks_modes

log = logging.getLogger(__name__)

STATUS = "status.json"

_EVERY = 5.0
"""Seconds from one writing to the next."""

_SEAL = "seal"
"""Of ``status.json``: the mark of its run and of what stands in it. Older drivers wrote none."""

_RENAMED = {"in_hand": "in_flight", "quiet": "dead"}
"""Keys of ``status.json`` that drivers of runs of schema version 2 wrote, and what they are called now."""

_SHOWN = 50
"""Units in flight whose progress is written, at most."""


class StatusWriter:
    """Passes on a run's reports, and writes one of them now and then to ``status.json``.

    Args:
        location: of the run.
        on_progress: called with every report.
        every: seconds from one writing to the next.
    """

    def __init__(self, location: Location, on_progress: Callable[[FarmReport], None], every: float = _EVERY) -> None:
        self._run = Run(location)
        self._on_progress = on_progress
        self._every = every
        self._next = 0.0

    def __call__(self, report: FarmReport) -> None:
        """Take in a report."""
        if time.monotonic() >= self._next:
            self.write(report)
            self._next = time.monotonic() + self._every
        self._on_progress(report)

    def write(self, report: FarmReport) -> None:
        """Write a report. Storage that refuses costs the status, not the run."""
        try:
            document = _document(report)
            document[_SEAL] = self._run.owner.mark(document)
            self._run.location.write(STATUS, json.dumps(document, indent=1).encode(), lasting=False)
        except StoreError as error:
            log.warning("the run's status is not written: %s", error)


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        units: in the plan.
        done: of them, as storage has them now.
        alive: whether a driver holds the run.
        holder: who holds it, or held it when it died; None after a run that ended by itself.
        report: what the last driver wrote last, the content of ``status.json``; empty if there is none.
        age: seconds since then, by this machine's clock.
        seeks_modes: whether the run is one of modes, which do not converge.
    """

    units: int
    done: int
    alive: bool
    holder: Holder | None
    report: Mapping[str, Any]
    age: float | None
    seeks_modes: bool = False

    @property
    def seconds_left(self) -> float | None:
        """The driver's own estimate; None where there is no driver, or no estimate yet."""
        left = self.report.get("seconds_left") if self.alive else None
        return max(0.0, float(left) - (self.age or 0.0)) if left is not None else None

    @property
    def document(self) -> dict[str, Any]:
        """All of it as plain values."""
        holder = None if self.holder is None else {"host": self.holder.host, "pid": self.holder.pid}
        return {"units": self.units, "done": self.done, "alive": self.alive, "holder": holder, "age": self.age,
                "seconds_left": self.seconds_left, "driver": dict(self.report)}  # fmt: skip


def read_status(run: Run) -> RunStatus:
    """Return how far a run is, from what is committed and from what its driver last wrote.

    Raises:
        StoreError: if storage does not answer, or no driver has written the number of units and the plan is missing or
            torn.
    """
    report = _read_report(run)
    at, units = report.get("at"), report.get("units")
    return RunStatus(
        units=units if isinstance(units, int) and units > 0 else len(run.plan),
        done=run.committed(),
        alive=is_held(run.location),
        holder=read_holder(run.location),
        report=report,
        # The clock of the driver's machine may be ahead.
        age=max(0.0, time.time() - float(at)) if isinstance(at, int | float) else None,
        seeks_modes=seeks_modes(run.request),
    )


def _read_report(run: Run) -> dict[str, Any]:
    if not run.location.exists(STATUS):
        return {}
    try:
        read = parse_json(run.location.read(STATUS, most=LARGEST))
    except (StoreError, ValueError):
        log.warning("%s cannot be read", STATUS)
        return {}
    written: dict[str, Any] = read if isinstance(read, dict) else {}
    seal = written.pop(_SEAL, None)
    if seal not in (None, run.owner.mark(written)):
        log.warning("%s is damaged, or that of another run", STATUS)
        return {}
    report = {_RENAMED.get(name, name): value for name, value in written.items()}
    try:
        _Written.model_validate(report)
    except ValidationError:
        log.warning("%s holds what no driver writes", STATUS)
        return {}
    return report


_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Seconds = Annotated[float, Field(ge=0, lt=1e15)]


class _Written(BaseModel):
    """What a driver writes, in every version."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    at: _Seconds | None = None
    units: _Count = 0
    done: _Count = 0
    before: _Count = 0
    actors: _Count = 0
    pending: _Count = 0
    in_flight: _Count = 0
    running: list[Annotated[float, Field(ge=0, le=1)]] = []
    set_aside: dict[str, str] = {}
    lost: _Count = 0
    nodes: _Count = 0
    converged: _Count = 0
    samples: _Count = 0
    gradients: _Count = 0
    seconds: _Seconds = 0.0
    seconds_left: _Seconds | None = None


def _document(report: FarmReport) -> dict[str, Any]:
    made = report.made
    return {
        "at": time.time(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "units": report.units,
        "done": report.done,
        "before": report.before,
        "fraction": report.fraction,
        "actors": report.actors,
        "pending": report.pending,
        "in_flight": len(report.running),
        "running": [_rounded(unit.fraction) for unit in report.running[:_SHOWN]],
        "set_aside": dict(report.set_aside),
        "lost": report.lost,
        "nodes": made.nodes,
        "converged": made.converged,
        "dead": made.dead,
        "samples": made.samples,
        "gradients": made.gradients,
        "acceptance": _rounded(report.acceptance),
        "seconds": report.seconds,
        "seconds_left": report.seconds_left,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 4)
