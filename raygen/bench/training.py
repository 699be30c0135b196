"""``raygen bench training``: what the generative gradient costs, what channels-last bfloat16 gains, what Ray costs."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from raygen import stages
from raygen.bench.results import Result, compare
from raygen.bench.settings import TrainingBenchSettings
from raygen.bench.training_steps import Steps, plain_loop
from raygen.config import PretrainConfig
from raygen.data import DataSettings, load_data
from raygen.process import keep_freed_memory
from raygen.training import Precision, generative_terms

_PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

_CLASSES = 10
_FLOAT = 4
"""Of the messages that are counted: the classes, and the bytes of a number."""


def bench_training(settings: TrainingBenchSettings) -> Iterator[Result]:
    """Yield the speed of steps, of whole runs, and the size of the messages; all with one thread a process."""
    keep_freed_memory()
    networks = [("lenet", 64, 30)] + ([("caffe_alexnet", 32, 1)] if settings.alexnet else [])
    for network, batch, number in networks:
        steps = Steps(network, batch, number)
        for precision in _PRECISIONS:
            for case, baseline in (
                # These compute the diagnostics of the importance weights as well, as raygen always does.
                ("discriminative steps", steps.ours(precision, 0.0)),
                ("cross entropy alone", steps.cross_entropy(precision)),
            ):
                yield compare(
                    "training", f"{network} batch {batch}, generative steps against {case}, {precision}",
                    steps.ours(precision, 1.0), baseline, rounds=settings.rounds, unit="images/s",
                )  # fmt: skip
    steps = Steps(*networks[0])
    with plain_loop(*networks[0]) as plain:
        for precision in _PRECISIONS:
            yield compare(
                "training", f"lenet batch 64, generative, channels-last {precision}, against a plain loop in float32",
                steps.ours(precision, 1.0), plain, rounds=settings.rounds, unit="images/s",
            )  # fmt: skip
    yield from normaliser_bytes((64, 256))
    if settings.ray:
        yield against_plain_loop(DataSettings.part_of(settings), settings.run_epochs, settings.run_rounds)
        yield two_workers(DataSettings.part_of(settings), settings.run_epochs, settings.run_rounds)


# Whole runs


def against_plain_loop(data: DataSettings, epochs: int, rounds: int) -> Result:
    """Compare one worker on Ray Train with the same training in this process, after start-up."""
    return _alternate("Ray Train with 1 worker against the plain loop", data, epochs, rounds,
                      {"workers": 1}, {"local": True})  # fmt: skip


def two_workers(data: DataSettings, epochs: int, rounds: int) -> Result:
    """Compare two workers on Ray Train with one, one thread each."""
    return _alternate("Ray Train with 2 workers against 1", data, epochs, rounds, {"workers": 2}, {"workers": 1})


def _alternate(
    case: str, data: DataSettings, epochs: int, rounds: int, subject: dict[str, Any], baseline: dict[str, Any]
) -> Result:
    from raygen.cluster import session  # noqa: PLC0415  (only here Ray is needed)

    images = len(load_data(data, (1, 28, 28))[0])
    pairs = []
    with session():
        for number in range(rounds):
            order = (subject, baseline) if number % 2 else (baseline, subject)
            rates = [_rate(data, epochs, images, changes) for changes in order]
            pairs.append((rates[0], rates[1]) if number % 2 else (rates[1], rates[0]))
    above, below = zip(*pairs, strict=True)
    ratio = statistics.median(first / second for first, second in pairs)
    return Result("training", f"lenet on {data.data}, {case}", statistics.median(above), "images/s",
                  statistics.median(below), ratio)  # fmt: skip


def _rate(data: DataSettings, epochs: int, images: int, changes: dict[str, Any]) -> float:
    """Return the images a second after start-up, with evaluation, states and reports."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        values = {"out": str(out), "epochs": epochs, **data.model_dump(exclude_unset=True), **changes}
        # Epochs are seen some time after they end, several at once: what is on storage says how many, and when.
        seen: list[tuple[int, float]] = []
        stages.pretrain(PretrainConfig.parse(values, where="bench"), lambda _: seen.append(_progress(out)))
        # The first epochs share the cores with Ray's helpers (of data, of preemption), which are still importing.
    first, last = next(at for at in seen if at[0] >= epochs // 3), seen[-1]
    return images * (last[0] - first[0]) / (last[1] - first[1])


def _progress(out: Path) -> tuple[int, float]:
    """Return how many epochs are done, and when the last one was."""
    metrics = out / "metrics.jsonl"
    return len(metrics.read_text(encoding="utf-8").splitlines()), metrics.stat().st_mtime


# The size of the messages


def normaliser_bytes(batches: Sequence[int]) -> Iterator[Result]:
    """Yield the bytes of the maxima, sums and counts of a generative step beside 12 C, for each batch size.

    The sums carry C + 1 numbers more, for the effective sample sizes and the loss; they are left out.
    """
    diagnostics = _FLOAT * (_CLASSES + 1)
    for batch, sent in zip(batches, _measure(batches), strict=True):
        value = float(sent - diagnostics)
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
