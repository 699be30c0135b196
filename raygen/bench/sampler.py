"""``raygen bench sampler``: what the sampler costs beside the network's own evaluations, and what cheap forces gain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from raygen.bench.loops import Loops, find_device, usable_cores
from raygen.bench.memory import memory
from raygen.bench.peak import share_of_peak
from raygen.bench.results import Result, compare
from raygen.networks import NetworkSettings, NodeScores
from raygen.process import keep_freed_memory


class SamplerBenchSettings(NetworkSettings):
    """What ``raygen bench sampler`` measures."""

    weights: str | None = Field("random", description='weight file, or "random": the speed is the same')
    batch: int = Field(256, ge=1, description="chains")
    rounds: int = Field(9, ge=1, description="counted rounds; their median is told")
    threads: int | None = Field(None, ge=1, description="CPU threads; where not set, all cores of the process")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where it runs")
    compile: bool = Field(False, description="also try torch.compile, on CUDA with CUDA graphs")
    memory: bool = Field(True, description="also measure peak memory, in fresh processes")


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
