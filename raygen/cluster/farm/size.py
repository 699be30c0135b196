"""How many actors a farm has."""

from __future__ import annotations

from dataclasses import dataclass

from raygen.cluster.connection import capacity
from raygen.errors import SettingsError


@dataclass(frozen=True)
class PoolSize:
    """How many actors: ``minimum`` at once, and up to ``maximum`` as the cluster grows."""

    minimum: int
    maximum: int


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
