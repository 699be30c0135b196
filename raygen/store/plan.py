"""The units of work of a run: their composition is fixed when the run begins, whatever the cluster."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.errors import StoreError
from raygen.nodes import Node, read_node
from raygen.store.schema import PLAN

_GROUP_ROWS = 1000
"""Units of a row group, which are read together."""

_CACHED_GROUPS = 8
"""Row groups whose decoded tables are cached."""


@dataclass(frozen=True)
class Unit:
    """Nodes of one layer whose chains share a batch.

    Attributes:
        name: unique in the run; also the name of its file.
        layer: the layer's dotted name.
        nodes: their texts, as the command line takes them, in the order of the batch.
        chains: chains of each node.
    """

    name: str
    layer: str
    nodes: tuple[str, ...]
    chains: int

    @cached_property
    def parsed(self) -> tuple[Node, ...]:
        """The nodes as values: their texts are read once, when they are first asked for.

        Raises:
            NodeError: if a text is none of a node.
        """
        return tuple(map(read_node, self.nodes))

    @property
    def path(self) -> str:
        """The file of its samples, relative to the run's folder."""
        return f"samples/{self.layer}/{self.name}.parquet"


def write_plan(units: Iterable[Unit]) -> bytes:
    """Return the bytes of ``plan.parquet``; the units may be made as they are asked for."""
    sink, waiting = io.BytesIO(), iter(units)
    with pq.ParquetWriter(sink, PLAN, compression="zstd") as writer:
        while group := list(islice(waiting, _GROUP_ROWS)):
            columns = {
                "unit": [unit.name for unit in group],
                "layer": [unit.layer for unit in group],
                "nodes": [list(unit.nodes) for unit in group],
                "chains": [unit.chains for unit in group],
            }
            writer.write_table(pa.table(columns, schema=PLAN))
    return sink.getvalue()


class Plan(Sequence[Unit]):
    """The units in ``plan.parquet``, in its order, each found by its index; decoded a row group at a time.

    Args:
        data: the file's bytes.
        where: the run's folder, for messages.

    Raises:
        StoreError: here or later, if it is torn.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._where = where
        with self._torn_is_named():
            self._file = pq.ParquetFile(io.BytesIO(data))
        groups = range(self._file.metadata.num_row_groups)
        self._starts: list[int] = [0, *accumulate(self._file.metadata.row_group(group).num_rows for group in groups)]
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Unit]:
        for group in range(len(self._starts) - 1):
            yield from map(_unit, self._decode(group).to_pylist())

    @overload
    def __getitem__(self, index: int) -> Unit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Unit]: ...
    def __getitem__(self, index: int | slice) -> Unit | Sequence[Unit]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(index)
        # A group without rows would have the same start as the next.
        group = bisect_right(self._starts, row) - 1
        return _unit(self._read(group).slice(row - self._starts[group], 1).to_pylist()[0])

    def _read(self, group: int) -> pa.Table:
        if group not in self._groups:
            self._groups[group] = self._decode(group)
            if len(self._groups) > _CACHED_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return self._groups[group]

    def _decode(self, group: int) -> pa.Table:
        with self._torn_is_named():
            return self._file.read_row_group(group).select(PLAN.names)

    @contextmanager
    def _torn_is_named(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, KeyError) as error:
            raise StoreError(f"plan.parquet is torn ({error})", where=self._where,
                             right="remove that file and run the same command again") from None  # fmt: skip


def _unit(row: dict[str, Any]) -> Unit:
    return Unit(name=row["unit"], layer=row["layer"], nodes=tuple(row["nodes"]), chains=row["chains"])
