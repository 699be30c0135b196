"""A run on storage: what was asked, its plan, and the samples of the units that are done.

The methods that read and write tables and states import what they need for it: to open a run needs no pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any

from raygen.errors import StoreError
from raygen.storage import Location
from raygen.store.lock import Lock, Pace
from raygen.store.request import SCHEMA_VERSION, Owner, claim, read_owner, read_request, read_seals

if TYPE_CHECKING:
    import pyarrow as pa

    from raygen.store.plan import Plan
    from raygen.store.states import UnitState
    from raygen.store.unit import Unit

_REQUEST = "run.json"
PLAN_FILE = "plan.parquet"
_ALLOWED = ("pretrain",)
"""What may lie in a run's folder before the run begins: the training of its network."""


@dataclass(frozen=True)
class Run:
    """A run's folder. A unit is done when its file is there: existence is the commit."""

    location: Location

    @classmethod
    def open(cls, folder: str) -> Run:
        """Return the run in ``folder`` (path or URI), to be read.

        Raises:
            StoreError: if there is no run, or one of a version of the schema that this raygen does not read.
        """
        run = cls(Location.of(folder))
        read_request(run.location, _REQUEST)
        return run

    @classmethod
    def begin(cls, folder: str, request: Mapping[str, Any], units: Iterable[Unit], *, about: Mapping[str, str]) -> Run:
        """Begin a run in ``folder``, or continue the one that was begun there with the same request.

        Args:
            folder: path or URI.
            request: everything that decides the samples: plain values.
            units: the plan.
            about: what is useful to know but decides nothing (versions); not compared.

        Raises:
            StoreError: if another run, or something that is no run, is there, or it cannot be written; also if it is
                an unfinished run of an older version of the schema: its files would have two kinds of columns.
        """
        from raygen.store.plan import write_plan  # noqa: PLC0415

        run = cls(Location.of(folder))
        made: list[tuple[bytes, str]] = []

        def seals() -> dict[str, str]:
            made.append(write_plan(units, run.location.title))
            return {PLAN_FILE: made[0][1]}

        version = claim(run.location, _REQUEST, request, about=about, allowed=_ALLOWED, seals=seals)
        if version != SCHEMA_VERSION:
            run._refuse_unfinished(version)
        elif not run.location.exists(PLAN_FILE):
            run._write_plan(*(made[0] if made else write_plan(units, run.location.title)))
        _ = run.owner  # as it is now: actors get it with the run, whatever becomes of the file
        return run

    def _write_plan(self, data: bytes, seal: str) -> None:
        """Write the plan, which may have been lost after its run began.

        Raises:
            StoreError: if the run was begun with another one: its samples would not fit this one.
        """
        known = read_seals(self.location, _REQUEST).get(PLAN_FILE, seal)
        if known != seal:
            raise StoreError(f"{PLAN_FILE} is lost, and this raygen plans other units", where=self.location.title,
                             right="use the raygen that began the run, or give a new folder")  # fmt: skip
        self.location.write(PLAN_FILE, data)

    @staticmethod
    def is_begun(folder: str) -> bool:
        """Whether a run has been begun in ``folder``.

        Raises:
            StoreError: if the storage does not answer.
        """
        location = Location.of(folder)
        return location.exists(_REQUEST) and location.exists(PLAN_FILE)

    @staticmethod
    def lock(folder: str, pace: Pace | None = None) -> Lock:
        """Return the lock of the run that is, or will be, in ``folder``: whoever samples holds it."""
        return Lock(Location.of(folder), _REQUEST, allowed=_ALLOWED, pace=pace)

    @property
    def request(self) -> dict[str, Any]:
        """The content of ``run.json``: ``schema``, ``request``, ``about``."""
        return read_request(self.location, _REQUEST)

    @cached_property
    def owner(self) -> Owner:
        """What the run's files belong to, as ``run.json`` said it when it was first asked for.

        Raises:
            StoreError: as ``request`` does.
        """
        return read_owner(self.location, _REQUEST)

    @property
    def plan(self) -> Plan:
        """The plan, read anew each time; its units are decoded as they are asked for.

        Raises:
            StoreError: if it is missing or torn, or is not the plan that the run began with.
        """
        from raygen.store.plan import Plan  # noqa: PLC0415

        seal = read_seals(self.location, _REQUEST).get(PLAN_FILE)
        return Plan(self.location.read(PLAN_FILE), self.location.title, seal)

    def done(self, plan: Sequence[Unit]) -> bytearray:
        """Return 1 for each unit of the plan that is committed, else 0: ``compress(plan, run.done(plan))`` is these.

        Raises:
            StoreError: if the storage does not answer.
        """
        files = {f"samples/{name}" for name in self.location.names("samples", recursive=True)}
        return bytearray(unit.path in files for unit in plan) if files else bytearray(len(plan))

    def committed(self) -> int:
        """Return how many units are committed, by their files alone.

        Raises:
            StoreError: if the storage does not answer.
        """
        return sum(name.endswith(".parquet") for name in self.location.names("samples", recursive=True))

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file of samples, by its path in the run: of unit ``u`` at ``u.path``.

        Raises:
            StoreError: if the storage does not answer.
        """
        return {f"samples/{name}": size for name, size in self.location.sizes("samples").items()}

    def commit(self, unit: Unit, samples: pa.Table) -> int:
        """Write a unit's samples whole; a second commit of the same unit replaces the first by the same rows.

        Returns:
            The bytes written.
        """
        from raygen.store.samples import write_samples  # noqa: PLC0415

        data = write_samples(samples, unit.mark(self.owner))
        self.location.write(unit.path, data)
        self.state(unit).remove()
        return len(data)

    def state(self, unit: Unit) -> UnitState:
        """Return the file of a unit's state, which is there while the unit is unfinished."""
        from raygen.store.states import UnitState  # noqa: PLC0415

        return UnitState(self.location, _REQUEST, unit)

    def samples(self, unit: Unit) -> pa.Table:
        """Return a committed unit's samples.

        Raises:
            StoreError: if they are missing or torn, or are those of another unit or another run.
        """
        from raygen.store.samples import check_nodes, read_samples  # noqa: PLC0415

        data = self.location.read(unit.path)
        try:
            samples = read_samples(data, unit.mark(self.owner), must=self.owner.marks_all)
            check_nodes(samples, unit.nodes)
        except ValueError as error:
            raise StoreError(f"{unit.path} is torn: it {error}", where=self.location.title,
                             right="remove that file and run the same command again") from None  # fmt: skip
        return samples

    def _refuse_unfinished(self, version: int) -> None:
        """Do nothing if all units of this run, which is of an older version, are committed.

        Raises:
            StoreError: if any is not.
        """
        if not self.location.exists(PLAN_FILE) or not all(self.done(self.plan)):
            raise StoreError(
                f"this unfinished run is of schema version {version}; this raygen writes version {SCHEMA_VERSION}",
                where=self.location.title,
                right="give a new folder, or finish it with the raygen that began it; gallery, status, verify read it",
            )

    def layers(self) -> Iterator[tuple[str, pa.Table]]:
        """Yield each layer's name with the samples of its committed units, in the plan's order."""
        import pyarrow as pa  # noqa: PLC0415

        by_layer: dict[str, list[Unit]] = {}
        plan = self.plan
        for unit in compress(plan, self.done(plan)):
            by_layer.setdefault(unit.layer, []).append(unit)
        for layer, units in by_layer.items():
            yield layer, pa.concat_tables([self.samples(unit) for unit in units])
