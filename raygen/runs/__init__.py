"""A run of many units: planned, worked through here or on a farm, its cost estimated, its status told."""

from raygen.runs.costs import LayerCost, PlanReport, reckon
from raygen.runs.planning import plan_units
from raygen.runs.reports import FarmReport, Totals, UnitReport
from raygen.runs.run import begin_run, describe_nodes, sample_here, sample_unit
from raygen.runs.status import RunStatus, StatusWriter, read_status
from raygen.runs.traces import trace_nodes
from raygen.runs.training_status import TrainingStatus, mend_training, training_status, verify_training

__all__ = [
    "FarmReport",
    "LayerCost",
    "PlanReport",
    "RunStatus",
    "StatusWriter",
    "Totals",
    "TrainingStatus",
    "UnitReport",
    "begin_run",
    "describe_nodes",
    "mend_training",
    "plan_units",
    "read_status",
    "reckon",
    "sample_here",
    "sample_unit",
    "trace_nodes",
    "training_status",
    "verify_training",
]
