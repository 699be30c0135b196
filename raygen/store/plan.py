"""The plan of a run: which units there are. It is sealed when it is written, and decoded a row group at a time."""

from __future__ import annotations

import hashlib
import io
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, islice
from typing import overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen.errors import StoreError
from raygen.store.digest import digest_values
from raygen.store.schema import PLAN
from raygen.store.unit import Unit, check_names

_GROUP_ROWS = 1000
"""Units of a row group, which are read together."""

_CACHED_GROUPS = 8
"""Row groups whose decoded tables are cached."""

_GROUPS = b"raygen.groups"
"""Of the file's metadata: how many units each row group holds, and a digest of them."""


def write_plan(units: Iterable[Unit], where: str) -> tuple[bytes, str]:
    """Return the bytes of ``plan.parquet`` and their seal; the units may be made as they are asked for.

    Args:
        units: in the plan's order.
        where: the run's folder, for messages.

    Raises:
        StoreError: if a unit has a name that no plan may hold.
    """
    sink, waiting, groups = io.BytesIO(), iter(units), list[tuple[int, str]]()
    with pq.ParquetWriter(sink, PLAN, compression="zstd", write_page_checksum=True) as writer:
        while group := list(islice(waiting, _GROUP_ROWS)):
            for unit in group:
                check_names(unit, where)
            columns = {
                "unit": [unit.name for unit in group],
                "layer": [unit.layer for unit in group],
                "nodes": [list(unit.nodes) for unit in group],
                "chains": [unit.chains for unit in group],
            }
            table = pa.table(columns, schema=PLAN)
            writer.write_table(table)
            groups.append((len(group), digest_values(table)))
        text = json.dumps(groups).encode()
        writer.add_key_value_metadata({_GROUPS: text})
    return sink.getvalue(), _seal(text)


def _seal(groups: bytes) -> str:
    return hashlib.sha256(groups).hexdigest()


class Plan(Sequence[Unit]):
    """The units in ``plan.parquet``, in its order, each found by its index; decoded a row group at a time.

    Args:
        data: the file's bytes.
        where: the run's folder, for messages.
        seal: what ``write_plan`` said of it; None for the plan of an older run, which was not sealed.

    Raises:
        StoreError: here or later, if it is torn, is not what was sealed, or holds names that lead out of the run.
    """

    def __init__(self, data: bytes, where: str, seal: str | None = None) -> None:
        self._where = where
        self._digests: list[str] | None = None
        with self._torn_is_named():
            self._file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
            groups = range(self._file.metadata.num_row_groups)
            sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
            if seal is not None:
                self._digests = self._sealed(seal, sizes)
        self._starts: list[int] = [0, *accumulate(sizes)]
        self._groups: OrderedDict[int, list[Unit]] = OrderedDict()

    def _sealed(self, seal: str, sizes: list[int]) -> list[str]:
        """Return the digests of the row groups, which are what the seal is of."""
        text = (self._file.metadata.metadata or {}).get(_GROUPS, b"")
        if _seal(text) != seal:
            raise ValueError("it is not the plan that run.json names")
        groups = json.loads(text)  # of which the seal is known
        if [rows for rows, _ in groups] != sizes:
            raise ValueError("it holds other units than were planned")
        return [digest for _, digest in groups]

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Unit]:
        for group in range(len(self._starts) - 1):
            yield from self._decode(group)

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
        return self._read(group)[row - self._starts[group]]

    def _read(self, group: int) -> list[Unit]:
        if group not in self._groups:
            self._groups[group] = self._decode(group)
            if len(self._groups) > _CACHED_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return self._groups[group]

    def _decode(self, group: int) -> list[Unit]:
        with self._torn_is_named():
            table = self._file.read_row_group(group).select(PLAN.names).cast(PLAN)
            table.validate(full=True)
            if any(column.null_count for column in (*table.columns, pc.list_flatten(table["nodes"]))):
                raise ValueError("a value is missing")
            if table.num_rows != self._starts[group + 1] - self._starts[group]:
                raise ValueError("units are missing")
            if self._digests is not None and digest_values(table) != self._digests[group]:
                raise ValueError("it holds other units than were planned")
            units = [Unit(row["unit"], row["layer"], tuple(row["nodes"]), row["chains"]) for row in table.to_pylist()]
        for unit in units:
            check_names(unit, self._where)
        return units

    @contextmanager
    def _torn_is_named(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise StoreError(f"plan.parquet is torn ({str(error)[:200]})", where=self._where,
                             right="remove that file and run the same command again") from None  # fmt: skip
