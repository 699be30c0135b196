"""One unit's chains, and a run of many units: from a node to rows in the store. Runs without Ray."""

from raygen.sampling.memory import keep_freed_memory
from raygen.sampling.planning import plan_units
from raygen.sampling.reference import make_reference
from raygen.sampling.run import FarmReport, UnitReport, begin_run, describe_nodes, sample_here, sample_unit
from raygen.sampling.settings import SamplingSettings
from raygen.sampling.unit import Profile, UnitProgress, UnitSampler

__all__ = [
    "FarmReport",
    "Profile",
    "SamplingSettings",
    "UnitProgress",
    "UnitReport",
    "UnitSampler",
    "begin_run",
    "describe_nodes",
    "keep_freed_memory",
    "make_reference",
    "plan_units",
    "sample_here",
    "sample_unit",
]
