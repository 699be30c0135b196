"""Actors and plans that a farm is measured with."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from raygen.cluster import FarmActor, SamplingActor
from raygen.runs import UnitReport
from raygen.store import Unit


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
    def __getitem__(self, place: int) -> Unit: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Unit]: ...
    def __getitem__(self, place: int | slice) -> Unit | Sequence[Unit]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        return Unit(f"layer-{place:07d}", "layer", (f"layer:{place}",), 1)


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
