"""Which units of a run are committed."""

from itertools import compress

from raygen.store import Run


def committed(run: Run) -> set[str]:
    """Return the names of the units whose samples are there."""
    return {unit.name for unit in compress(run.plan, run.done(run.plan))}
