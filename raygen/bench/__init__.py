"""The benchmarks behind ``raygen bench``."""

from raygen.bench.results import Result, compare
from raygen.bench.sampler import SamplerBenchSettings, bench_sampler

__all__ = ["Result", "SamplerBenchSettings", "bench_sampler", "compare"]
