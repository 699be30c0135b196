"""From nodes to units: which chains share a batch. It depends on what is asked, never on the cluster."""

from __future__ import annotations

from collections.abc import Sequence

from raygen.networks import Node
from raygen.store import Unit


def plan_units(nodes: Sequence[Node], *, chains: int, batch: int) -> tuple[Unit, ...]:
    """Group nodes of the same layer and position into units of at most ``batch`` chains, but at least one node.

    Args:
        nodes: without duplicates; their order is kept within a layer.
        chains: of each node.
        batch: chains that may share a pass.
    """
    groups: dict[tuple[str, tuple[int, int] | None], list[int]] = {}
    for node in nodes:
        groups.setdefault((node.layer, node.position), []).append(node.channel)
    size = max(1, batch // chains)
    units = []
    for (layer, position), channels in groups.items():
        place = "" if position is None else f"@{position[0]},{position[1]}"
        units += [
            Unit(f"{layer}{place}-{start // size:05d}", layer, tuple(channels[start : start + size]), chains, position)
            for start in range(0, len(channels), size)
        ]
    return tuple(units)
