"""``raygen bench sampler``: what the sampler costs beside the network's own evaluations, and what cheap forces gain."""

from __future__ import annotations

import copy
import multiprocessing
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from raygen.bench.loops import Loops, Work, find_device, gradient, usable_cores
from raygen.bench.results import Result, compare, single
from raygen.bench.settings import SamplerBenchSettings
from raygen.networks import NetworkSettings, NodeScores, Precision, computes_bfloat16
from raygen.process import keep_freed_memory

_SIDES = {"cuda": 8192, "cpu": 2048}
_PRODUCTS = {"cuda": 20, "cpu": 2}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""A device's peak is that of matrix products: of this side, so many in a measurement."""

_PARTS = (1, 2, 4)
"""Peak memory is measured at the batch, a half and a quarter of it."""


def bench_sampler(settings: SamplerBenchSettings) -> Iterator[Result]:
    """Yield speed against a bare loop and against the plain network, share of the device's peak, and memory.

    Raises:
        SettingsError: if the device is not there.
        NetworkError, WeightsError: as ``load_network`` does.
    """
    device, threads = find_device(settings.device), settings.threads or usable_cores()
    torch.set_num_threads(threads)
    keep_freed_memory()
    loops = Loops.of(settings, settings.batch, device)
    loops = replace(loops, trajectories=loops.counted())
    yield from _speed(loops, settings)
    for precision in ("float32", "bfloat16") if device.type == "cuda" else ():
        yield share_of_peak(loops, precision, rounds=settings.rounds)
    if settings.memory:
        yield from memory(settings, settings.batch, threads, settings.device)


def _speed(loops: Loops, settings: SamplerBenchSettings) -> Iterator[Result]:
    name = f"{loops.network.name} batch {settings.batch}"
    scores, cheap = loops.scores, loops.scores.with_precision("bfloat16")
    plain = loops.gradients(loops.plain)
    cases = [
        ("float32, against a bare loop", loops.sampler(None), loops.bare(None)),
        ("bfloat16 forces, against a bare loop", loops.sampler(cheap), loops.bare(cheap)),
        ("bfloat16 forces, against the plain network in float32", loops.sampler(cheap), plain),
        ("channels-last float32 gradients, against the plain network in float32",
         loops.gradients(scores.with_precision("float32")), plain),
        ("channels-last bfloat16 gradients, against the plain network in float32", loops.gradients(cheap), plain),
    ]  # fmt: skip
    if settings.compile:
        cases.append(("compiled bfloat16 gradients, against the plain network in float32",
                      loops.gradients(_compiled(cheap, loops.device)), plain))  # fmt: skip
    for case, subject, baseline in cases:
        yield compare("sampler", f"{name}, {case}", subject, baseline, rounds=settings.rounds)


def _compiled(scores: NodeScores, device: torch.device) -> Callable[[Tensor], Tensor]:
    # "reduce-overhead" records CUDA graphs.
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    compiled: Callable[[Tensor], Tensor] = torch.compile(scores.__call__, mode=mode)
    return compiled


def share_of_peak(loops: Loops, precision: Precision, *, rounds: int) -> Result:
    """Return GFLOP/s of the gradients in ``precision`` against those of a square matrix product.

    Float32 products are TF32 ones where torch is set to make them, as they are for the network.
    """
    scores = loops.scores.with_precision(precision)
    flops = flops_of_gradient(scores)
    work = loops.gradients(scores)
    name = f"{loops.network.name} batch {len(scores.channels)}, {precision} gradients against a matrix product"
    found = compare("sampler", name, lambda: work() * flops / 1e9, _product(loops, precision), rounds=rounds)
    return replace(found, unit="GFLOP/s")


def flops_of_gradient(scores: NodeScores) -> float:
    """Return the floating point operations of one gradient of one chain, forward and back; nothing is computed.

    Those of the plain algorithms, however the gradient is really made.
    """
    x = torch.zeros(len(scores.channels), *scores.input_shape, device="meta")
    with FlopCounterMode(display=False) as counter:
        # The counter's hooks on a module do not take a leaf for its input.
        gradient(copy.deepcopy(scores).to("meta").forward, x)
    return float(counter.get_total_flops()) / len(scores.channels)


def _product(loops: Loops, precision: str) -> Work:
    kind = loops.device.type
    side, count = _SIDES[kind], _PRODUCTS[kind]
    left = torch.randn(side, side, device=loops.device).to(_DTYPES[precision])

    def run() -> float:
        for _ in range(count):
            torch.mm(left, left)
        loops.wait()
        return 2.0 * count * side**3 / 1e9

    return run


def memory(settings: NetworkSettings, batch: int, threads: int, device: str) -> Iterator[Result]:
    """Yield the peak of a trajectory with cheap forces, against one gradient loop of the plain network.

    These forces are in bfloat16 where the device computes in it, or else in float32.

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
    cheap: Precision = "bfloat16" if computes_bfloat16(loops.device) else "float32"
    work = loops.gradients(loops.plain) if plain else loops.sampler(loops.scores.with_precision(cheap))
    work()
    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else _peak_resident() / 1e6


def _peak_resident() -> float:
    """Return bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
