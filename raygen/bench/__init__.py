"""The benchmarks behind ``raygen bench``."""

from raygen.bench.kernels import KernelsBenchSettings, bench_kernels
from raygen.bench.nodes import NodesBenchSettings, bench_nodes
from raygen.bench.results import Result, compare
from raygen.bench.sampler import SamplerBenchSettings, bench_sampler

__all__ = [
    "KernelsBenchSettings",
    "NodesBenchSettings",
    "Result",
    "SamplerBenchSettings",
    "bench_kernels",
    "bench_nodes",
    "bench_sampler",
    "compare",
]
