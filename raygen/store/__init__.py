"""A run on storage: what was asked, its plan, its samples. Local paths and URIs alike."""

from raygen.store.holder import Holder
from raygen.store.lock import Lock, Pace, is_held, read_holder
from raygen.store.plan import Plan, Unit
from raygen.store.request import claim, read_request
from raygen.store.run import Run
from raygen.store.schema import PLAN, SAMPLES, SCHEMA_VERSION
from raygen.store.verify import Findings, mend_run, verify_run

__all__ = [
    "PLAN",
    "SAMPLES",
    "SCHEMA_VERSION",
    "Findings",
    "Holder",
    "Lock",
    "Pace",
    "Plan",
    "Run",
    "Unit",
    "claim",
    "is_held",
    "mend_run",
    "read_holder",
    "read_request",
    "verify_run",
]
