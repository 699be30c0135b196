"""Nodes that no tilt can move: found before sampling, and marked instead of sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from raygen.hmc import Diagnostics, Parameters, Streams, Trace
from raygen.networks import Cut, dead_nodes
from raygen.nodes import Node
from raygen.tilting import Reference

_IMAGES = 16
"""Draws from the reference by which a node is judged."""

UNKNOWN = Diagnostics(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 0)
"""The diagnostics of a node that was not sampled."""


def find_dead(
    cut: Cut, nodes: Sequence[Node], reference: Reference, *, seed: int, device: torch.device
) -> dict[Node, str]:
    """Return the constant and dead nodes among ``nodes``, which share a layer and an ending, each with the reason.

    A score that is not finite is no such case: it is an error where the node is sampled.

    Args:
        cut: of the nodes' layer.
        nodes: of one unit.
        reference: whose draws they are judged by.
        seed: of the run.
        device: of the reference.
    """
    kind = f"{seed}/{nodes[0].layer}{nodes[0].ending}/quiet"
    streams = Streams((kind,), _IMAGES, device)
    found = dead_nodes(cut, nodes, reference.image(streams.start(reference.shape)))
    return {node: reason for node, reason in found.items() if "not finite" not in reason}


def no_trace(rows: int) -> tuple[Trace, Parameters]:
    """Return the record of chains that made no trajectory, and their parameters: a tilt of 0, and no step size."""
    none = torch.zeros((0, rows))
    trace = Trace(none, none.double(), torch.zeros((0, rows, 1)), none, none.bool())
    return trace, Parameters(torch.full((rows,), math.nan), torch.zeros(rows))
