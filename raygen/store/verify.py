"""Every file of a run, read again: what is torn, what is missing, what does not belong there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from raygen.errors import StoreError
from raygen.storage import Location
from raygen.store.check import UnitCheck
from raygen.store.plan import Unit
from raygen.store.run import PLAN_FILE, Run


@dataclass(frozen=True)
class Findings:
    """What is wrong in a folder; files are named relative to it.

    Attributes:
        whole: parts that are as they should be.
        torn: files that are not, each with what is wrong.
        missing: parts that are not there: a number, since of a run that has just begun nearly all are missing.
        first_missing: the first of them.
        scraps: what is left of a write that was killed.
        left_over: states of finished units, or of none, each with why it is not needed.
        strangers: files that no part of the run has. They are never removed.
    """

    whole: int = 0
    torn: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    first_missing: tuple[str, ...] = ()
    scraps: tuple[str, ...] = ()
    left_over: dict[str, str] = field(default_factory=dict)
    strangers: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is torn or missing; scraps and strangers do no harm."""
        return not self.torn and not self.missing

    @property
    def to_remove(self) -> tuple[str, ...]:
        """What ``mend_run`` removes: what is torn, scraps, and states that nobody needs."""
        return (*self.torn, *self.scraps, *self.left_over)


NAMED = 20
"""Missing parts that are named, at most."""


def verify_run(run: Run, on_unit: Callable[[int, int], None] | None = None) -> Findings:
    """Read every file of a run's plan, samples and states; nothing is changed.

    Args:
        run: whose files.
        on_unit: told how many units of how many are read.

    Raises:
        StoreError: if ``run.json`` is missing or damaged, which nothing can make again, or storage does not answer.
    """
    request = run.request["request"]
    location = run.location
    if not location.exists(PLAN_FILE):
        return Findings(missing=1, first_missing=(PLAN_FILE,), scraps=_scraps(location))
    try:
        plan = run.plan
        units = {unit.name: number for number, unit in enumerate(plan)}
    except StoreError as error:
        return Findings(torn={PLAN_FILE: error.what}, scraps=_scraps(location))
    files = {f"samples/{name}" for name in location.names("samples", recursive=True)}
    check, torn, whole, missing = UnitCheck(request), dict[str, str](), 0, list[str]()
    lacking = 0
    for number, unit in enumerate(plan):
        if unit.path not in files:
            lacking += 1
            missing += [unit.path] if len(missing) < NAMED else []
        elif fault := _fault(check, run, unit):
            torn[unit.path] = fault
        else:
            whole += 1
        files.discard(unit.path)
        if on_unit is not None:
            on_unit(number + 1, len(plan))
    scraps = _scraps(location)
    return Findings(
        whole=whole,
        torn=torn,
        missing=lacking,
        first_missing=tuple(missing),
        scraps=scraps,
        left_over=dict(_left_over(run, units, torn)),
        strangers=tuple(sorted(files - set(scraps))),
    )


def mend_run(location: Location, findings: Findings) -> int:
    """Remove what is torn or left over, so that the run's command makes it again; return how many files.

    Nothing that can be read as what it should be is removed. Whoever calls this holds the folder's lock.

    Raises:
        StoreError: if the storage refuses.
    """
    for name in findings.to_remove:
        location.remove(name)
    return len(findings.to_remove)


def _fault(check: UnitCheck, run: Run, unit: Unit) -> str:
    return "; ".join(check.faults(unit, run.location.read(unit.path)))


def _scraps(location: Location) -> tuple[str, ...]:
    top = [name for name in location.names() if name.endswith(".tmp")]
    deeper = [f"{folder}/{name}" for folder in ("samples", "state") for name in location.names(folder, recursive=True)]
    return (*top, *(name for name in deeper if name.endswith(".tmp")))


def _left_over(run: Run, units: dict[str, int], torn: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield states that are not needed. One that is torn is passed over when its unit begins, and so not needed."""
    plan = run.plan
    for name in run.location.names("state"):
        unit_name = name.rpartition(".")[0]
        if name.endswith(".tmp"):
            continue
        if unit_name not in units:
            yield f"state/{name}", "of no unit"
            continue
        unit = plan[units[unit_name]]
        if unit.path not in torn and run.location.exists(unit.path):
            yield f"state/{name}", "of a unit that is done"
        else:
            readable = None
            with contextlib.suppress(StoreError):
                readable = run.state(unit).read()
            if readable is None:
                yield f"state/{name}", "torn, or of another version"
