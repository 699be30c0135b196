"""The share of a device's peak that gradients reach; the peak is a large matrix product in the same run."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from raygen.bench.loops import Loops, Work, gradient
from raygen.bench.results import Result, compare
from raygen.networks import NodeScores, Precision

_SIDES = {"cuda": 8192, "cpu": 2048}
_PRODUCTS = {"cuda": 20, "cpu": 2}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
    x = torch.zeros(len(scores.channels), *scores.cut.input_shape, device="meta")
    with FlopCounterMode(display=False) as counter:
        gradient(scores.to("meta"), x)
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
