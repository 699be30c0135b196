"""Peak memory of a process that samples, and how it grows with the chains."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import torch

from raygen.bench.loops import Loops
from raygen.bench.results import Result, single
from raygen.networks import NetworkSettings
from raygen.process import keep_freed_memory

_PARTS = (1, 2, 4)


def memory(settings: NetworkSettings, batch: int, threads: int, device: str) -> Iterator[Result]:
    """Yield the peak of a trajectory with bfloat16 forces, against one gradient loop of the plain network.

    Measured at the batch, a half and a quarter of it, each in a process of its own; then, fitted to these, megabytes
    (10^6 bytes) for each chain more, and the part that does not grow. On CUDA only the device's memory counts.
    """
    batches = sorted({max(1, batch // part) for part in _PARTS}, reverse=True)
    peaks = [[_fresh(settings, chains, threads, device, plain=plain) for chains in batches] for plain in (False, True)]
    for chains, ours, plain in zip(batches, *peaks, strict=True):
        case = f"{settings.network} batch {chains}, peak memory, against the plain network"
        yield single("sampler", case, "MB", ours, plain)
    if len(batches) > 1:
        (slope, fixed), (plain_slope, plain_fixed) = (line(batches, peak) for peak in peaks)
        yield single("sampler", f"{settings.network}, memory for each chain", "MB/chain", slope, plain_slope)
        yield single("sampler", f"{settings.network}, memory for libraries and weights", "MB", fixed, plain_fixed)


def line(x: list[int], y: list[float]) -> tuple[float, float]:
    """Return slope and intercept of the least-squares line through the points."""
    design = torch.tensor([[float(value), 1.0] for value in x], dtype=torch.float64)
    slope, intercept = torch.linalg.lstsq(design, torch.tensor(y, dtype=torch.float64)[:, None]).solution[:, 0]
    return float(slope), float(intercept)


def _fresh(settings: NetworkSettings, batch: int, threads: int, device: str, *, plain: bool) -> float:
    # The system's figure starts at the memory of the process that forks: a fork server's is small.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        return pool.submit(_measure, settings, batch, threads, device, plain=plain).result()


def _measure(settings: NetworkSettings, batch: int, threads: int, device: str, *, plain: bool) -> float:
    torch.set_num_threads(threads)
    if not plain:
        keep_freed_memory()
    loops = Loops.of(settings, batch, torch.device(device))
    work = loops.gradients(loops.plain) if plain else loops.sampler(loops.scores.with_precision("bfloat16"))
    work()
    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else _peak_resident() / 1e6


def _peak_resident() -> float:
    """Return bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
