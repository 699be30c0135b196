"""What lies on disk or in a bucket: the run, its plan, its samples. Local paths and URIs alike."""

from raygen.store.location import Location
from raygen.store.plan import Unit
from raygen.store.request import claim, read_request
from raygen.store.run import Run
from raygen.store.schema import PLAN, SAMPLES, SCHEMA_VERSION

__all__ = ["PLAN", "SAMPLES", "SCHEMA_VERSION", "Location", "Run", "Unit", "claim", "read_request"]
