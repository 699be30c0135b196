"""A run on storage: what was asked, its plan, and the samples of the units that are done."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.errors import StoreError
from raygen.store.location import Location
from raygen.store.plan import Unit, read_plan, write_plan
from raygen.store.schema import SAMPLES, SCHEMA_VERSION

_REQUEST = "run.json"
_PLAN = "plan.parquet"
_GUEST = "pretrain"
"""The one folder that may lie in a run's folder before the run begins: the training of its network."""


@dataclass(frozen=True)
class Run:
    """A run's folder. A unit is done when its file is there: existence is the commit."""

    location: Location

    @classmethod
    def open(cls, place: str) -> Run:
        """Return the run at ``place``, to be read.

        Raises:
            StoreError: if there is no run.
        """
        run = cls(Location.of(place))
        if not run.location.exists(_REQUEST):
            raise StoreError("no run is there", where=place,
                             right="give the folder that holds run.json, as raygen sample --out wrote it")  # fmt: skip
        if (found := run.request.get("schema")) != SCHEMA_VERSION:
            raise StoreError(f"its schema is version {found}", where=place,
                             right=f"this raygen reads version {SCHEMA_VERSION}")  # fmt: skip
        return run

    @classmethod
    def begin(cls, place: str, request: Mapping[str, Any], units: Sequence[Unit], *, about: Mapping[str, str]) -> Run:
        """Begin the run at ``place``, or take it up again where it was begun with the same request.

        Args:
            place: path or URI of the folder.
            request: everything that decides the samples: plain values.
            units: the plan.
            about: what is worth knowing but decides nothing (versions); not compared.

        Raises:
            StoreError: if another run, or something that is no run, is there, or it cannot be written.
        """
        run = cls(Location.of(place))
        asked = json.loads(json.dumps(request))
        if run.location.exists(_REQUEST):
            _refuse_difference(place, run.request["request"], asked)
        else:
            run._refuse_strangers(place)
            document = {"schema": SCHEMA_VERSION, "request": asked, "about": dict(about)}
            run.location.write(_REQUEST, json.dumps(document, indent=2).encode())
        if not run.location.exists(_PLAN):
            run.location.write(_PLAN, write_plan(units))
        return run

    @property
    def request(self) -> dict[str, Any]:
        """The content of ``run.json``: ``schema``, ``request``, ``about``."""
        try:
            document = json.loads(self.location.read(_REQUEST))
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise StoreError("run.json is no JSON object", where=self.location.text,
                             right="restore it, or begin a new run elsewhere")  # fmt: skip
        return document

    def units(self) -> tuple[Unit, ...]:
        """Return the plan."""
        return read_plan(self.location.read(_PLAN))

    def done(self) -> set[str]:
        """Return the names of the units that are committed."""
        files = self.location.names("samples", recursive=True)
        return {name.rsplit("/", 1)[-1].removesuffix(".parquet") for name in files if name.endswith(".parquet")}

    def commit(self, unit: Unit, samples: pa.Table) -> None:
        """Write a unit's samples whole; a second commit of the same unit replaces the first by the same rows."""
        sink = io.BytesIO()
        # PNG bytes do not shrink any further; everything else is small beside them.
        pq.write_table(samples.cast(SAMPLES), sink, compression="zstd")
        self.location.write(unit.path, sink.getvalue())

    def samples(self, unit: Unit) -> pa.Table:
        """Return a committed unit's samples.

        Raises:
            StoreError: if they are missing or torn.
        """
        data = self.location.read(unit.path)
        try:
            return pq.read_table(io.BytesIO(data))
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(f"{unit.path} is torn ({error})", where=self.location.text,
                             right="remove that file and run the same command again") from None  # fmt: skip

    def layers(self) -> Iterator[tuple[str, pa.Table]]:
        """Yield each layer's name with the samples of its committed units, in the plan's order."""
        done = self.done()
        by_layer: dict[str, list[Unit]] = {}
        for unit in self.units():
            if unit.name in done:
                by_layer.setdefault(unit.layer, []).append(unit)
        for layer, units in by_layer.items():
            yield layer, pa.concat_tables([self.samples(unit) for unit in units])

    def _refuse_strangers(self, place: str) -> None:
        strangers = [name for name in self.location.entries() if name != _GUEST]
        if strangers:
            raise StoreError(f"the folder holds {strangers[0]}, which is no part of a run", where=place,
                             right="give an empty or a new folder")  # fmt: skip


def _refuse_difference(place: str, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    difference = next(_differences(found, asked), None)
    if difference is not None:
        name, old, new = difference
        raise StoreError(f"it holds another run: there {name} is {json.dumps(old)}, now {json.dumps(new)}",
                         where=place, right="ask for the same again, or give another folder")  # fmt: skip


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield name, old, new
