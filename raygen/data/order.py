"""In which order, and in which batches, a process reads the pictures of a listing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raygen.data.images import epoch_order
from raygen.data.source import Share

Indices = NDArray[np.int64]

WINDOW_BYTES = 64 * 2**20
WINDOW_ROWS = 2048
"""A window is as many row groups as have no more than this between them, and one at least."""


@dataclass(frozen=True)
class Plan:
    """What a process reads in a pass.

    Attributes:
        order: (m,) indices of its pictures, in the order of the pass.
        ends: where in ``order`` each piece ends; the pictures of a piece are read together.
        sizes: how many pictures each of its batches has; m in all.
    """

    order: Indices
    ends: Indices
    sizes: tuple[int, ...]

    def pieces(self, least: int = 1) -> Iterator[Indices]:
        """Give the indices of each piece, or of as many pieces in a row as have ``least`` pictures."""
        start = 0
        for end in self.ends.tolist():
            if end - start >= least:
                yield self.order[start:end]
                start = end
        if start < len(self.order):
            yield self.order[start:]


@dataclass(frozen=True)
class Groups:
    """Pictures that lie in groups, each of which is best read as a whole: the row groups of Parquet files.

    Attributes:
        starts: (g + 1,) index of each group's first picture, and the number of pictures.
        sizes: (g,) bytes of each group.
    """

    starts: Indices
    sizes: Indices

    def windows(self, order: Indices, first: int, last: int) -> Iterator[Indices]:
        """Cut the pictures ``first`` to ``last`` (not included) of groups in an order into windows."""
        ends = np.cumsum(np.diff(self.starts)[order])
        window: list[Indices] = []
        held = rows = 0
        for position in range(int(np.searchsorted(ends, first, side="right")), len(order)):
            group = order[position]
            start, stop = (int(index) for index in self.starts[group : group + 2])
            before = int(ends[position]) - (stop - start)
            if before >= last:
                break
            part = np.arange(start + max(first - before, 0), min(stop, start + last - before))
            if window and (held + self.sizes[group] > WINDOW_BYTES or rows + len(part) > WINDOW_ROWS):
                yield np.concatenate(window)
                window, held, rows = [], 0, 0
            window.append(part)
            held, rows = held + int(self.sizes[group]), rows + len(part)
        if window:
            yield np.concatenate(window)


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """Return the sizes of the global batches of ``n`` images: all the same, but the last."""
    return [min(batch_size, n - start) for start in range(0, n, batch_size)]


def plan_epoch(n: int, seed: int, number: int, batch_size: int, share: Share) -> Plan:
    """Plan an epoch over single files, in the order and the shards of images in memory (``ImageSet.epoch``)."""
    order = epoch_order(n, seed, number)
    shards = [order[start : start + batch_size][share.rank :: share.processes] for start in range(0, n, batch_size)]
    return _singles(shards)


def plan_once(n: int, batch_size: int, share: Share) -> Plan:
    """Plan a look at single files: each process takes every ``processes``-th batch, in order (``ImageSet.once``)."""
    starts = range(share.rank * batch_size, n, share.processes * batch_size)
    shards = [np.arange(start, min(start + batch_size, n)) for start in starts]
    return _singles(shards)


def plan_grouped_epoch(groups: Groups, seed: int, number: int, batch_size: int, share: Share) -> Plan:
    """Plan an epoch over row groups.

    The groups, in a random order that (seed, number) decide, are cut into one run of pictures for each process, as
    long as its shards of the global batches are in all; so a group is read once an epoch, or twice if a cut goes
    through it. A process shuffles its pictures within windows of ``WINDOW_BYTES`` or ``WINDOW_ROWS``. Global batches
    have the same sizes as over single files, but what is in them depends on the number of processes.
    """
    n = int(groups.starts[-1])
    draw = np.random.default_rng((seed, number))
    order = draw.permutation(len(groups.sizes))
    shards = [
        [len(range(rank, size, share.processes)) for size in batch_sizes(n, batch_size)]
        for rank in range(share.rank + 1)
    ]
    first = sum(map(sum, shards[:-1]))
    sizes = tuple(shards[-1])
    own = np.random.default_rng((seed, number, share.rank))
    windows = groups.windows(order, first, first + sum(sizes))
    return _windowed([own.permutation(window) for window in windows], sizes)


def plan_grouped_once(groups: Groups, batch_size: int, share: Share) -> Plan:
    """Plan a look at row groups: each process takes neighbouring batches, in order."""
    n = int(groups.starts[-1])
    sizes = batch_sizes(n, batch_size)
    low, high = (len(sizes) * rank // share.processes for rank in (share.rank, share.rank + 1))
    first = sum(sizes[:low])
    order = np.arange(len(groups.sizes))
    windows = groups.windows(order, first, first + sum(sizes[low:high]))
    return _windowed(list(windows), tuple(sizes[low:high]))


def _singles(shards: list[Indices]) -> Plan:
    order = np.concatenate([np.empty(0, dtype=np.int64), *shards])
    return Plan(order, np.arange(1, len(order) + 1), tuple(map(len, shards)))


def _windowed(windows: list[Indices], sizes: tuple[int, ...]) -> Plan:
    order = np.concatenate([np.empty(0, dtype=np.int64), *windows])
    return Plan(order, np.cumsum([len(window) for window in windows], dtype=np.int64), sizes)
