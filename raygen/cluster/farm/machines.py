"""What becomes of the cluster's machines."""

from __future__ import annotations

import time

import ray
from ray._private import state

_EVERY = 2.0
"""Seconds between two looks."""


class Machines:
    """Which machines are there, and which of them are about to go, as of the last look."""

    def __init__(self) -> None:
        self._last = -_EVERY
        self.draining: frozenset[str] = frozenset()

    def look(self) -> bool:
        """Look again if it is time to; return whether another machine drains."""
        if time.monotonic() - self._last < _EVERY:
            return False
        self._last = time.monotonic()
        before = self.draining
        # Ray 2.60 has no public way; this is the one that its own Train takes.
        self.draining = frozenset(state.state.get_draining_nodes())
        return bool(self.draining - before)


def is_alive(machine: str) -> bool:
    """Whether a machine is part of the cluster at present."""
    nodes: list[dict[str, object]] = ray.nodes()  # type: ignore[no-untyped-call]
    return any(node["NodeID"] == machine and node["Alive"] for node in nodes)
