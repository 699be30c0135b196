"""How far a unit is, reported while it is sampled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class UnitProgress:
    """How far a unit is.

    Attributes:
        fraction: of its trajectories made, those that a node needs no more counted as made; with log Z, its chains are
            half of it.
        acceptance: mean acceptance probability of the last trajectory; NaN before the first, and for log Z.
        seconds_left: that it needs at its pace so far; NaN before there is one.
    """

    fraction: float
    acceptance: float
    seconds_left: float = math.nan


class Reporter:
    """Reports how far a unit is.

    Args:
        parts: of the work; 2 where log Z follows, so that the chains count for half.
        on_progress: called after each trajectory.
        clock: seconds.
    """

    def __init__(
        self,
        parts: int,
        on_progress: Callable[[UnitProgress], None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts = parts
        self._on_progress = on_progress
        self._clock = clock
        self._first: tuple[float, float] | None = None  # time and fraction; a unit may go on from a saved state

    def chains(self, fraction: float, acceptance: float) -> None:
        """Report the fraction of trajectories made, and the mean acceptance probability of the last ones."""
        self._report(fraction / self._parts, acceptance)

    def rest(self, fraction: float) -> None:
        """Report the fraction of the last part that is done."""
        self._report((1 + fraction) / self._parts, math.nan)

    def _report(self, fraction: float, acceptance: float) -> None:
        if self._on_progress is not None:
            self._on_progress(UnitProgress(fraction, acceptance, self._left(fraction)))

    def _left(self, fraction: float) -> float:
        now = self._clock()
        began, before = self._first = self._first or (now, fraction)
        return (now - began) * (1 - fraction) / (fraction - before) if fraction > before else math.nan
