"""The cluster's machines: which there are, which are about to go, and how many actors they hold."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray._private import state

from raygen.cluster.farm.pool import PoolSize
from raygen.errors import SettingsError

_EVERY = 2.0
"""Seconds between two looks for machines that drain."""


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
    return any(node["NodeID"] == machine for node in _alive())


def capacity(*, cpus: float, gpus: float) -> int:
    """Return how many workers of so many CPUs and GPUs each the cluster's machines hold at present."""
    asked = {name: number for name, number in (("CPU", cpus), ("GPU", gpus)) if number > 0}
    # A worker is on one machine: halves of two do not make one.
    return sum(
        int(min(machine["Resources"].get(name, 0) / number for name, number in asked.items())) for machine in _alive()
    )


def pool_size(minimum: int | None, maximum: int | None, *, threads: int, gpus: float) -> PoolSize:
    """Return how many actors to have on the cluster as it is, and how many where it may grow.

    Args:
        minimum: asked for; None for as many as fit.
        maximum: up to so many as the cluster grows; None for a cluster that does not.
        threads: CPUs of an actor.
        gpus: share of a GPU of an actor.

    Raises:
        SettingsError: if not even one fits and the cluster is not to grow, or the maximum is under the minimum.
    """
    if maximum is not None:
        if minimum is not None and minimum > maximum:
            raise SettingsError(f"{maximum} is under the {minimum} of actors", where="max_actors",
                                right="give as many at least, or leave actors out")  # fmt: skip
        fit = max(1, capacity(cpus=threads, gpus=gpus))
        return PoolSize(minimum or min(fit, maximum), maximum)
    room = capacity(cpus=threads, gpus=gpus)
    if room < 1:
        if gpus > 0 and capacity(cpus=threads, gpus=0) >= 1:
            raise SettingsError(
                f"no machine of the cluster has {gpus:g} GPUs for an actor",
                where="gpus",
                right="give --gpus 0 to sample on CPUs, or --max-actors for a cluster that grows",
            )
        raise SettingsError(f"an actor of {threads} CPUs and {gpus:g} GPUs does not fit on the cluster", where="actors",
                            right="ask for fewer threads or GPUs, or for a larger cluster")  # fmt: skip
    actors = min(minimum, room) if minimum else room
    return PoolSize(actors, actors)


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
