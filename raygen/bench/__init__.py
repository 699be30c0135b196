"""The benchmarks behind ``raygen bench``."""

from raygen.bench.kernels import KernelsBenchSettings, bench_kernels
from raygen.bench.results import Result, compare
from raygen.bench.sampler import SamplerBenchSettings, bench_sampler

__all__ = ["KernelsBenchSettings", "Result", "SamplerBenchSettings", "bench_kernels", "bench_sampler", "compare"]
