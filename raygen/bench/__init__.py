"""The benchmarks behind ``raygen bench``."""

from raygen.bench.farm import bench_farm
from raygen.bench.farm_settings import FarmBenchSettings
from raygen.bench.kernels import KernelsBenchSettings, bench_kernels
from raygen.bench.nodes import NodesBenchSettings, bench_nodes
from raygen.bench.results import Result, compare
from raygen.bench.sampler import SamplerBenchSettings, bench_sampler
from raygen.bench.table1 import Table1Settings, bench_table1
from raygen.bench.training import TrainingBenchSettings, bench_training

__all__ = [
    "FarmBenchSettings",
    "KernelsBenchSettings",
    "NodesBenchSettings",
    "Result",
    "SamplerBenchSettings",
    "Table1Settings",
    "TrainingBenchSettings",
    "bench_farm",
    "bench_kernels",
    "bench_nodes",
    "bench_sampler",
    "bench_table1",
    "bench_training",
    "compare",
]
