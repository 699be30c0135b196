"""The traces of nodes' chains, in this process: for those who look closer than a run's rows do."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raygen.hmc import Groups
from raygen.networks import Network
from raygen.nodes import Node
from raygen.runs.planning import LINE, plan_units
from raygen.sampling import Profile, SamplingSettings, Source, UnitSampler


def trace_nodes(
    network: Network,
    nodes: Sequence[Node],
    settings: SamplingSettings,
    *,
    images: Source = None,
    device: torch.device | None = None,
    profile: Profile | None = None,
) -> dict[str, Groups]:
    """Draw the chains of nodes, those that a run with these settings draws, and return what ArviZ reads.

    Args:
        network: whose nodes.
        nodes: without duplicates.
        settings: what decides the chains.
        images: what the reference is fitted to, or a saved reference; None for noise.
        device: where the chains live; the CPU where not given.
        profile: by layer, contrast, tilt or step size that go before the settings'.

    Returns:
        By node, as the command line writes it: the groups of ``raygen.hmc.to_arviz``, every trajectory after warm-up
        being a draw (a run keeps the image of each ``thin``-th of them).

    Raises:
        ScoreError: naming the node whose score is not finite, or has no gradient, where its chains start.
    """
    sampler = UnitSampler(network, settings, images, device or torch.device("cpu"), profile)
    groups: dict[str, Groups] = {}
    line = 1 if settings.budget is None else LINE
    for unit in plan_units(nodes, chains=settings.chains, batch=settings.batch, line=line):
        groups |= sampler.trace(unit).to_arviz()
    return groups
