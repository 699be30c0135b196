"""What a benchmark finds, and how two things are compared on a machine whose speed drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One case of a benchmark.

    Attributes:
        bench, case: what was measured.
        value: the measured figure, in ``unit``.
        unit: of value and baseline.
        baseline: the same figure of what it is compared with.
        ratio: median over the rounds of value over baseline, both of the same round.
    """

    bench: str
    case: str
    value: float
    unit: str
    baseline: float
    ratio: float


def single(bench: str, case: str, unit: str, value: float, baseline: float) -> Result:
    """Return a case that is measured once."""
    return Result(bench, case, value, unit, baseline, value / baseline if baseline else float("nan"))


def compare(
    bench: str,
    case: str,
    subject: Callable[[], float],
    baseline: Callable[[], float],
    *,
    rounds: int,
    unit: str = "chain-gradients/s",
) -> Result:
    """Run both in turn, in alternating order, and compare round by round.

    Args:
        bench: its name.
        case: what is compared, for the table.
        subject: does its work and returns how much it made.
        baseline: likewise.
        rounds: counted ones; one more goes before them to warm up.
        unit: of what is made, a second.
    """
    rate(subject), rate(baseline)
    pairs = []
    for number in range(rounds):
        if number % 2:
            below, above = rate(baseline), rate(subject)
        else:
            above, below = rate(subject), rate(baseline)
        pairs.append((above, below))
    return Result(
        bench=bench,
        case=case,
        value=statistics.median(above for above, _ in pairs),
        unit=unit,
        baseline=statistics.median(below for _, below in pairs),
        ratio=statistics.median(above / below for above, below in pairs),
    )


def rate(work: Callable[[], float]) -> float:
    """Return how much ``work`` makes a second."""
    start = time.perf_counter()
    made = work()
    return made / (time.perf_counter() - start)
