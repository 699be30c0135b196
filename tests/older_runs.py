"""Runs as a raygen wrote them that did not seal its plan and its request."""

import json
from pathlib import Path

import pyarrow.parquet as pq


def unseal_request(file: Path) -> None:
    """Take the seals off a run's or a training's request."""
    document = json.loads(file.read_text())
    document.pop("seals", None)
    file.write_text(json.dumps(document, indent=2))


def unseal(folder: Path) -> None:
    """Take the seals off a run's request and plan."""
    unseal_request(folder / "run.json")
    plan = pq.read_table(folder / "plan.parquet")
    metadata = {key: value for key, value in (plan.schema.metadata or {}).items() if key != b"raygen.groups"}
    pq.write_table(plan.replace_schema_metadata(metadata), folder / "plan.parquet")
