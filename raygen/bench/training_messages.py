"""How many bytes a step's normaliser sends, read off the real all-reduces of a process group."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from raygen.bench.results import Result
from raygen.training import generative_terms

_CLASSES = 10
_FLOAT = 4


def normaliser_bytes(batches: Sequence[int]) -> Iterator[Result]:
    """Yield the bytes of the maxima, sums and counts of a generative step beside 12 C, for each batch size.

    The sums carry C + 1 numbers more, of which the effective sample sizes and the loss are told; they are left out.
    """
    told_too = _FLOAT * (_CLASSES + 1)
    for batch, sent in zip(batches, _measure(batches), strict=True):
        value = float(sent - told_too)
        case = f"bytes of the normaliser a step, {_CLASSES} classes, batch {batch}, against 12 C"
        yield Result("training", case, value, "bytes", 12.0 * _CLASSES, value / (12 * _CLASSES))


def _measure(batches: Sequence[int]) -> list[int]:
    """Return the bytes that a process sends in a step of two, for each batch size."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        first, second = pool.map(_take_part, range(2), [folder] * 2, [batches] * 2)
    assert first == second
    return first


def _take_part(rank: int, folder: str, batches: Sequence[int]) -> list[int]:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        return [_message_bytes(batch // 2) for batch in batches]
    finally:
        dist.destroy_process_group()


def _message_bytes(images: int) -> int:
    """Return the bytes of a step's all-reduces, for so many images of this process."""
    scores = torch.randn(images, _CLASSES, requires_grad=True)
    labels = torch.randint(0, _CLASSES, (images,))
    messages = _AllReduces()
    with messages:
        generative_terms(scores, labels).loss.backward()  # type: ignore[no-untyped-call]
    return messages.bytes


class _AllReduces(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of each all-reduce within the block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.c10d.allreduce_.default:
            self.bytes += sum(tensor.nbytes for tensor in args[0])
        return func(*args, **(kwargs or {}))
