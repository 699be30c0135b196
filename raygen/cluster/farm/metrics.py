"""What a farm tells Prometheus through Ray."""

from __future__ import annotations

from typing import Any

from ray.util import metrics

from raygen.runs import FarmReport


class FarmMetrics:
    """raygen_units_done, raygen_chain_gradients (counters), raygen_units_running, raygen_actors, ... (gauges).

    Args:
        run: the run's folder, the tag of each.
    """

    def __init__(self, run: str) -> None:
        def gauge(name: str, description: str) -> Any:
            return metrics.Gauge(f"raygen_{name}", description, ("run",)).set_default_tags({"run": run})

        def counter(name: str, description: str) -> Any:
            return metrics.Counter(f"raygen_{name}", description, ("run",)).set_default_tags({"run": run})

        self._done: Any = counter("units_done", "Units committed since this start.")
        self._gradients: Any = counter("chain_gradients", "Chain-gradients of the units committed since this start.")
        self._running: Any = gauge("units_running", "Units that actors are at.")
        self._actors: Any = gauge("actors", "Actors that can take work.")
        self._pending: Any = gauge("actors_pending", "Actors that wait for a machine, or start.")
        self._lost: Any = gauge("units_set_aside", "Units given up.")
        self._told = (0, 0)

    def tell(self, report: FarmReport, running: int) -> None:
        """Tell how far the farm is."""
        made = report.made
        for metric, now, before in zip((self._done, self._gradients), (made.units, made.gradients), self._told,
                                       strict=True):  # fmt: skip
            if now > before:  # a counter takes no 0
                metric.inc(now - before)
        self._told = made.units, made.gradients
        self._running.set(running)
        self._actors.set(report.actors - report.pending)
        self._pending.set(report.pending)
        self._lost.set(report.lost)
