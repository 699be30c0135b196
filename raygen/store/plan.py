"""The units of work of a run: their composition is fixed when the run begins, whatever the cluster."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.store.schema import PLAN


@dataclass(frozen=True)
class Unit:
    """Nodes of one layer whose chains share a batch.

    Attributes:
        name: unique in the run; also the name of its file.
        layer: the layer's dotted name.
        nodes: as the command line takes them, in the order of the batch.
        chains: chains of each node.
    """

    name: str
    layer: str
    nodes: tuple[str, ...]
    chains: int

    @property
    def path(self) -> str:
        """Where its samples lie, relative to the run."""
        return f"samples/{self.layer}/{self.name}.parquet"


def write_plan(units: Sequence[Unit]) -> bytes:
    """Return the bytes of ``plan.parquet``."""
    columns = {
        "unit": [unit.name for unit in units],
        "layer": [unit.layer for unit in units],
        "nodes": [list(unit.nodes) for unit in units],
        "chains": [unit.chains for unit in units],
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=PLAN), sink, compression="zstd")
    return sink.getvalue()


def read_plan(data: bytes) -> tuple[Unit, ...]:
    """Return the units in ``plan.parquet``, in its order."""
    return tuple(
        Unit(name=row["unit"], layer=row["layer"], nodes=tuple(row["nodes"]), chains=row["chains"])
        for row in pq.read_table(io.BytesIO(data)).to_pylist()
    )
