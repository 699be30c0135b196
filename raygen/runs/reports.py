"""Reports of a unit, of a layer, of a run. Their size does not grow with the units done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from raygen.sampling import UnitProgress


@dataclass(frozen=True)
class UnitReport:
    """A committed unit in a few numbers.

    Attributes:
        unit: its name.
        layer: its layer's name.
        samples: rows written.
        gradients: chain-gradients spent, those on log Z included.
        acceptance: mean acceptance rate; NaN where none of its nodes was sampled.
        nodes, converged: how many nodes, and how many of them converged.
        seconds: it took.
        dead: how many nodes are constant or dead, and were not sampled.
        size: bytes written.
        notes: which shortcuts it did not take, and why; mostly none.
    """

    unit: str
    layer: str
    samples: int
    gradients: int
    acceptance: float
    nodes: int
    converged: int
    seconds: float
    dead: int = 0
    size: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Totals:
    """Of many units.

    Attributes:
        units: how many.
        samples, gradients, nodes, converged, dead, seconds, size: summed over them, as in ``UnitReport``.
        rates: sum of their mean acceptance rates.
        rated: units that have one.
    """

    units: int = 0
    samples: int = 0
    gradients: int = 0
    nodes: int = 0
    converged: int = 0
    dead: int = 0
    seconds: float = 0.0
    rates: float = 0.0
    rated: int = 0
    size: int = 0

    @property
    def acceptance(self) -> float | None:
        """Mean over the units; None before there is one."""
        return self.rates / self.rated if self.rated else None

    @classmethod
    def of(cls, report: UnitReport) -> Totals:
        """Return those of one unit."""
        rated = not math.isnan(report.acceptance)
        return cls(
            units=1,
            samples=report.samples,
            gradients=report.gradients,
            nodes=report.nodes,
            converged=report.converged,
            dead=report.dead,
            seconds=report.seconds,
            rates=report.acceptance if rated else 0.0,
            rated=int(rated),
            size=report.size,
        )

    def __add__(self, other: Totals) -> Totals:
        names = [field.name for field in fields(self)]
        summed: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Totals(**summed)


def add_up(totals: Iterable[Totals]) -> Totals:
    """Return the sum; nothing where there are none."""
    return sum(totals, start=Totals())


@dataclass(frozen=True)
class FarmReport:
    """How far a run is.

    Attributes:
        units: in the plan.
        before: of them, done before this start.
        layers: totals of the units done since, by layer in the order in which they came.
        running: progress of the units in flight, or of some where they are thousands.
        actors: there are now, those that wait for a machine or start included.
        set_aside: the first units given up, in the plan's order, with the reason.
        seconds: since this start.
        lost: how many units are given up.
        pending: of the actors, those that wait for a machine or start.
    """

    units: int
    before: int
    layers: Mapping[str, Totals]
    running: tuple[UnitProgress, ...]
    actors: int
    set_aside: Mapping[str, str]
    seconds: float
    lost: int = 0
    pending: int = 0

    @property
    def made(self) -> Totals:
        """Totals of the units done since this start."""
        return add_up(self.layers.values())

    @property
    def done(self) -> int:
        """Units committed."""
        return self.before + self.made.units

    @property
    def fraction(self) -> float:
        """Of the whole plan, counting units in flight in part."""
        return (self.done + sum(unit.fraction for unit in self.running)) / max(self.units, 1)

    @property
    def seconds_left(self) -> float | None:
        """Estimate at the rate since this start, or as long as a unit in flight needs; None before there is one."""
        made = self.fraction - self.before / max(self.units, 1)
        if made <= 0:
            return None
        # Units of one layer may take a hundred times as long as those of another, and come last.
        needed = (unit.seconds_left for unit in self.running if not math.isnan(unit.seconds_left))
        return max(self.seconds * (1 - self.fraction) / made, *needed, 0.0)

    @property
    def acceptance(self) -> float | None:
        """Mean over the units done since this start, or in flight where none is done; None before there is one."""
        if (mean := self.made.acceptance) is not None:
            return mean
        rates = [unit.acceptance for unit in self.running if not math.isnan(unit.acceptance)]
        return sum(rates) / len(rates) if rates else None
