"""From nodes to units: which chains share a batch. It depends on what is asked, never on the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from raygen.nodes import Node, write_name
from raygen.store import Unit

LINE = 4
"""Batches of nodes in a unit where nodes stop when they have converged: those in line take the places of those that
have stopped. With a longer line the batch is full for longer, but units are fewer."""


def plan_units(nodes: Sequence[Node], *, chains: int, batch: int, line: int = 1) -> tuple[Unit, ...]:
    """Group nodes of the same layer and ending into units of at most ``line`` batches, each of at least one node.

    Args:
        nodes: without duplicates; their order is kept within a layer.
        chains: of each node.
        batch: chains that may share a pass.
        line: batches of nodes in a unit, which take each other's places.
    """
    return tuple(iter_units(nodes, chains=chains, batch=batch, line=line))


def iter_units(nodes: Iterable[Node], *, chains: int, batch: int, line: int = 1) -> Iterator[Unit]:
    """Yield what :func:`plan_units` returns, one unit after the other: of many, none need be kept."""
    groups: dict[tuple[str, str], list[Node]] = {}
    for node in nodes:
        groups.setdefault((node.layer, node.ending), []).append(node)
    size = line * max(1, batch // chains)
    for (layer, ending), group in groups.items():
        written = write_name(layer)
        for start in range(0, len(group), size):
            part = group[start : start + size]
            # As str writes it, but for what all of them share.
            named = tuple(str(node) if node.terms else f"{written}:{node.channel}{ending}" for node in part)
            yield Unit(f"{layer}{ending}-{start // size:05d}", layer, named, chains)
