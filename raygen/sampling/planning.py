"""From nodes to units: which chains share a batch. It depends on what is asked, never on the cluster."""

from __future__ import annotations

from collections.abc import Sequence

from raygen.networks import Node
from raygen.store import Unit


def plan_units(nodes: Sequence[Node], *, chains: int, batch: int) -> tuple[Unit, ...]:
    """Group nodes of the same layer and ending into units of at most ``batch`` chains, but at least one node.

    Args:
        nodes: without duplicates; their order is kept within a layer.
        chains: of each node.
        batch: chains that may share a pass.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        groups.setdefault((node.layer, node.ending), []).append(str(node))
    size = max(1, batch // chains)
    units = []
    for (layer, ending), named in groups.items():
        units += [
            Unit(f"{layer}{ending}-{start // size:05d}", layer, tuple(named[start : start + size]), chains)
            for start in range(0, len(named), size)
        ]
    return tuple(units)
