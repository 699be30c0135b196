"""How many bytes a step's normaliser sends, read off the real all-reduces of a process group."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from raygen.bench.results import Result
from raygen.tilting.losses import generative_terms

_CLASSES = 10
_FLOAT = 4


def normaliser_bytes(batches: Sequence[int]) -> Iterator[Result]:
    """Yield the bytes of the maxima, sums and counts of a generative step beside 12 C, for each batch size.

    The sums carry C + 1 numbers more, of which the effective sample sizes and the loss are told; they are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
    try:
        for batch in batches:
            told_too = _FLOAT * (_CLASSES + 1)
            value = float(sum(_messages(batch)) - told_too)
            case = f"bytes of the normaliser a step, {_CLASSES} classes, batch {batch}, against 12 C"
            yield Result("training", case, value, "bytes", 12.0 * _CLASSES, value / (12 * _CLASSES))
    finally:
        dist.destroy_process_group()


def _messages(batch: int) -> list[int]:
    """Return the bytes of each all-reduce of a step."""
    scores = torch.randn(batch, _CLASSES, requires_grad=True)
    labels = torch.randint(0, _CLASSES, (batch,))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        generative_terms(scores, labels).loss.backward()  # type: ignore[no-untyped-call]
    shapes = [event.input_shapes for event in profiled.events() if event.name == "gloo:all_reduce"]
    return [_FLOAT * sum(math.prod(shape) for shape in inputs if shape) for inputs in shapes]
