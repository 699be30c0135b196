"""Whether a node's chains have converged, as its settings ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raygen.hmc import Diagnostics, Trace, diagnose
from raygen.sampling.settings import SamplingSettings


def converged(found: Sequence[Diagnostics], trace: Trace, chains: int, settings: SamplingSettings) -> list[bool]:
    """Return whether each node has converged: R-hat and effective sample size of the score, R-hat of the projections.

    With superchains, nested R-hat takes R-hat's place, on the score and the projections alike. R-hat asks each chain
    to be long: at stationarity it still exceeds 1 by about half the inverse of a chain's own effective sample size.
    Nested R-hat asks that of a superchain, so that short chains may be many instead (Margossian et al. 2024).

    Args:
        found: diagnostics of each node.
        trace: that they are of.
        chains: of each node.
        settings: the superchains and the limits.
    """
    if settings.superchains is None:
        return [node.converged(r_hat=settings.r_hat, ess=settings.ess) for node in found]
    nested = [[node.r_hat_nested for node in found]]
    for axis in range(trace.projections.shape[2]):
        along = replace(trace, score=trace.projections[:, :, axis], projections=trace.projections[:, :, :1])
        nested.append([node.r_hat_nested for node in diagnose(along, chains, settings.superchains)])
    return [
        node.ess_bulk >= settings.ess and all(ratios[place] <= settings.r_hat for ratios in nested)
        for place, node in enumerate(found)
    ]
