"""One unit's chains, and a run of many units: from a node to rows in the store. Runs without Ray."""

from raygen.sampling.costs import LayerCost, PlanReport, reckon
from raygen.sampling.planning import plan_units
from raygen.sampling.progress import UnitProgress
from raygen.sampling.reference import SavedReference, Source, check_saved, fit_reference, make_reference
from raygen.sampling.reports import FarmReport, Totals, UnitReport
from raygen.sampling.run import begin_run, describe_nodes, sample_here, sample_unit
from raygen.sampling.settings import SamplingSettings
from raygen.sampling.status import RunStatus, StatusWriter, read_status
from raygen.sampling.traces import trace_nodes
from raygen.sampling.unit import Profile, UnitSampler, UnitTrace

__all__ = [
    "FarmReport",
    "LayerCost",
    "PlanReport",
    "Profile",
    "RunStatus",
    "SamplingSettings",
    "SavedReference",
    "Source",
    "StatusWriter",
    "Totals",
    "UnitProgress",
    "UnitReport",
    "UnitSampler",
    "UnitTrace",
    "begin_run",
    "check_saved",
    "describe_nodes",
    "fit_reference",
    "make_reference",
    "plan_units",
    "read_status",
    "reckon",
    "sample_here",
    "sample_unit",
    "trace_nodes",
]
