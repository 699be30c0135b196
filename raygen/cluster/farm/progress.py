"""How far a farm is: counted by layer, for whoever displays it, and for Prometheus through Ray."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from ray.util import metrics

from raygen.cluster.farm.scheduler import Scheduler
from raygen.runs import FarmReport, Totals, UnitReport
from raygen.sampling import UnitProgress
from raygen.store import Unit

log = logging.getLogger(__name__)

_NAMED = 100
"""Units set aside that are named, at most."""


class FarmProgress:
    """Counts the units that are done, and reports.

    Args:
        plan: the units.
        before: of them, done before this start.
        scheduler: of the farm.
        name: of the run, for the metrics.
    """

    def __init__(self, plan: Sequence[Unit], before: int, scheduler: Scheduler, name: str) -> None:
        self._plan, self._before = plan, before
        self._scheduler = scheduler
        self._layers: dict[str, Totals] = {}
        self._metrics = FarmMetrics(name)
        self._noted: set[str] = set()

    def count(self, report: UnitReport) -> None:
        """Add a unit that is done, and log what its actor noted, once."""
        for note in report.notes:
            if note not in self._noted:
                self._noted.add(note)
                log.warning(note)
        self._layers[report.layer] = self._layers.get(report.layer, Totals()) + Totals.of(report)

    def report(self, running: Iterable[UnitProgress], actors: int, seconds: float) -> FarmReport:
        """Return how far the farm is, and set the metrics.

        Args:
            running: progress of the units in flight.
            actors: there are now, those that wait for a machine or start included.
            seconds: since this start.
        """
        queue = self._scheduler.queue
        report = FarmReport(
            units=len(self._plan),
            before=self._before,
            layers=dict(self._layers),
            running=tuple(running),
            actors=actors,
            set_aside={self._plan[unit].name: reason for unit, reason in queue.reasons(_NAMED).items()},
            seconds=seconds,
            lost=queue.set_aside,
            pending=self._scheduler.pool.pending,
        )
        self._metrics.set(report, queue.in_flight)
        return report


class FarmMetrics:
    """raygen_units_done, raygen_chain_gradients (counters), raygen_units_running, raygen_actors, ... (gauges).

    Args:
        run: the run's folder, the tag of each.
    """

    def __init__(self, run: str) -> None:
        run = run.encode("ascii", "backslashreplace").decode()  # Ray's exporter takes no other letters

        def gauge(name: str, description: str) -> Any:
            return metrics.Gauge(f"raygen_{name}", description, ("run",)).set_default_tags({"run": run})

        def counter(name: str, description: str) -> Any:
            return metrics.Counter(f"raygen_{name}", description, ("run",)).set_default_tags({"run": run})

        self._done: Any = counter("units_done", "Units committed since this start.")
        self._gradients: Any = counter("chain_gradients", "Chain-gradients of the units committed since this start.")
        self._running: Any = gauge("units_running", "Units in flight.")
        self._actors: Any = gauge("actors", "Actors that can take work.")
        self._pending: Any = gauge("actors_pending", "Actors that wait for a machine, or start.")
        self._lost: Any = gauge("units_set_aside", "Units given up.")
        self._counted = (0, 0)

    def set(self, report: FarmReport, running: int) -> None:
        """Set all to how far the farm is."""
        made = report.made
        for metric, now, before in zip((self._done, self._gradients), (made.units, made.gradients), self._counted,
                                       strict=True):  # fmt: skip
            if now > before:  # a counter takes no 0
                metric.inc(now - before)
        self._counted = made.units, made.gradients
        self._running.set(running)
        self._actors.set(report.actors - report.pending)
        self._pending.set(report.pending)
        self._lost.set(report.lost)
