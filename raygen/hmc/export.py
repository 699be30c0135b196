"""Chains in the groups and by the names of ArviZ's schema, as plain arrays: no ArviZ and no xarray is needed here.

``arviz_base.from_dict(to_arviz(trace, chains, node), dims=ARVIZ_DIMS)`` makes the DataTree that ArviZ plots and
summarises. Names and meanings are those of its "InferenceData schema specification".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raygen.hmc.chains import Trace
from raygen.hmc.state import Parameters

Groups = dict[str, dict[str, NDArray[Any]]]

ARVIZ_DIMS: Mapping[str, list[str]] = MappingProxyType({"projection": ["direction"]})
"""Names of the dimensions behind (chain, draw); a variable and a dimension may not share one."""


def to_arviz(
    trace: Trace, chains: int, node: int = 0, *, parameters: Parameters | None = None, steps: int | None = None
) -> Groups:
    """Return one node's chains as {group: {variable: array (chain, draw, ...)}}.

    ``posterior`` holds ``score`` and ``projection`` (chain, draw, P); ``sample_stats`` holds

    - ``energy``: of the Hamiltonian, just after the draw's trajectory was given its momentum, up to a constant;
    - ``acceptance_rate``: acceptance probability of the trajectory's end;
    - ``diverging``: whether its energy error was over 1000 or not finite;
    - ``lp``: log of the tilted density in whitened coordinates, up to a constant; where the trace has recorded it;
    - ``step_size``: frozen, before jitter, and ``n_steps``; where they are given.

    There is no ``tree_depth``: trajectories are no trees.

    Args:
        trace: of all chains, those of a node side by side.
        chains: of each node.
        node: which one, in the order of the batch.
        parameters: that the chains were drawn with.
        steps: gradients of a trajectory, where the parameters do not give each chain its own.

    Raises:
        IndexError: if there is no such node.
    """
    length, rows = trace.score.shape
    if not 0 <= node < rows // chains:
        raise IndexError(f"node {node} of {rows // chains}")
    own = slice(node * chains, (node + 1) * chains)

    def of_node(record: Tensor) -> NDArray[Any]:
        return np.ascontiguousarray(record[:, own].cpu().transpose(0, 1).numpy())

    stats = {
        "energy": of_node(trace.energy),
        "acceptance_rate": of_node(trace.acceptance),
        "diverging": of_node(trace.diverged),
    }
    if trace.potential is not None:
        stats["lp"] = -of_node(trace.potential)
    if parameters is not None:
        stats["step_size"] = of_node(parameters.step_size.expand(length, rows))
    if parameters is not None and parameters.steps is not None:
        stats["n_steps"] = of_node(parameters.steps.expand(length, rows))
    elif steps is not None:
        stats["n_steps"] = np.full((chains, length), steps)
    return {
        "posterior": {"score": of_node(trace.score), "projection": of_node(trace.projections)},
        "sample_stats": stats,
    }
