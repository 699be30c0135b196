"""``raygen bench sampler``: what the sampler costs beside the network's own evaluations, and what cheap forces gain."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from raygen.bench.loops import Loops, Work, find_device, gradient, usable_cores
from raygen.bench.memory import memory
from raygen.bench.results import Result, compare
from raygen.bench.settings import SamplerBenchSettings
from raygen.networks import NodeScores, Precision
from raygen.process import keep_freed_memory

_SIDES = {"cuda": 8192, "cpu": 2048}
_PRODUCTS = {"cuda": 20, "cpu": 2}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""A device's peak is that of matrix products: of this side, so many in a measurement."""


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
