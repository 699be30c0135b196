"""Pictures read, decoded and changed through Ray Data, by tasks on CPUs anywhere in the cluster."""

from __future__ import annotations

import pickle
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data import DataContext, ExecutionResources
from ray.data.exceptions import ExecutionTimeoutError

from raygen.cluster.machines import capacity
from raygen.data import ImageSource, Indices, Listing, Picture, PictureStream, Plan, Preparation
from raygen.errors import InputError, RaygenError

_PICTURES = 64
_TASKS = 1000
_BYTES = 64 * 2**20
"""A task prepares 64 pictures, or more where a pass would else have over a thousand tasks, which Ray Data is slow to
begin; but no more than so many bytes of pixels. Row groups that are read together stay together."""


@dataclass(frozen=True)
class RayReader:
    """Prepares pictures in Ray tasks of one CPU each; the reader of a ``PictureStream`` in a training worker.

    Each worker uses an equal share of the cluster's CPUs that no worker holds. At most two tasks a CPU are ahead of
    training.

    Attributes:
        workers: that train side by side.
        held: CPUs that each of them holds itself.
    """

    workers: int = 1
    held: float = 1.0

    def __call__(self, listing: Listing, plan: Plan, preparation: Preparation) -> Generator[Picture, None, None]:
        """Give the pictures of a plan; see ``raygen.data.stream.Reader``.

        Raises:
            InputError: as the listing's ``read`` does.
            RaygenError: if the tasks that read make no progress for half an hour (Ray Data's own limit).
        """
        size = int(np.prod(preparation.shape))
        parts = [len(piece) for piece in plan.pieces(_least(len(plan.order), size))]
        if not parts:
            return
        ends = np.cumsum(parts)
        work = ray.put(_Work(listing, plan.order, ends, preparation))
        cpus = max(spare_cpus(self.workers, self.held) // self.workers, 1)
        # A data set keeps the context that it was made in.
        with DataContext.current(_context(cpus, max(parts) * size)):
            tasks = ray.data.range(len(parts), override_num_blocks=len(parts)).map_batches(
                partial(_prepare, work=[work]), batch_size=None, num_cpus=1
            )
        try:
            for block in tasks.iter_batches(prefetch_batches=1, batch_size=None, batch_format="numpy"):
                yield from _pictures(block)
        except ExecutionTimeoutError as error:
            raise RaygenError(
                f"data {listing.name}: no picture came for half an hour; there is no free CPU for the tasks that "
                "read them, or one of them kills its process"
            ) from error


@dataclass(frozen=True)
class _Work:
    listing: Listing
    order: Indices
    ends: Indices
    preparation: Preparation

    def part(self, number: int) -> Indices:
        start = int(self.ends[number - 1]) if number else 0
        return self.order[start : int(self.ends[number])]


def through_ray(source: ImageSource, *, workers: int, held: float) -> ImageSource:
    """Let a stream be read through Ray Data; a source in memory stays as it is.

    Args:
        source: of ``raygen.data.open_data``.
        workers: that train side by side.
        held: CPUs that each of them holds itself.
    """
    return source.read_by(RayReader(workers, held)) if isinstance(source, PictureStream) else source


def spare_cpus(workers: int, held: float) -> int:
    """Return how many CPUs of the cluster are left beside training workers."""
    return int(capacity(cpus=1, gpus=0) - workers * held)


def _least(n: int, size: int) -> int:
    """Return how many of ``n`` pictures of so many bytes a task prepares at least."""
    return max(min(max(_PICTURES, n // _TASKS), _BYTES // size), 1)


def _context(cpus: int, block: int) -> DataContext:
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    options = context.execution_options
    options.preserve_order = True
    options.resource_limits = ExecutionResources.for_limits(cpu=cpus, object_store_memory=2 * (cpus + 1) * block)
    return context


def _prepare(batch: dict[str, Any], work: list[Any]) -> dict[str, Any]:
    """Run in a task: prepare the pictures of its parts."""
    known: _Work = ray.get(work[0])
    pictures: list[Picture | InputError] = []
    for number in batch["id"].tolist():
        indices = known.part(number)
        try:
            read = known.listing.read(indices)
        # Returned, so that the reader raises it as it is: Ray would wrap it.
        except InputError as error:
            pictures.append(error)
            break
        each = zip(indices.tolist(), read, strict=True)
        pictures.extend(known.preparation.picture(index, data) for index, data in each)
    pixels = np.zeros((len(pictures), *known.preparation.shape), dtype=np.uint8)
    troubles = np.full(len(pictures), b"", dtype=object)
    for row, picture in enumerate(pictures):
        if isinstance(picture, np.ndarray):
            pixels[row] = picture
        else:
            troubles[row] = pickle.dumps(picture)
    return {"pixels": pixels, "trouble": troubles}


def _pictures(block: dict[str, Any]) -> Generator[Picture, None, None]:
    for pixels, trouble in zip(block["pixels"], block["trouble"], strict=True):
        found = pickle.loads(trouble) if trouble else pixels
        if isinstance(found, InputError):
            raise found
        yield found
