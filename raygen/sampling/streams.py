"""The random numbers of nodes' chains."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raygen.hmc import Streams
from raygen.nodes import Node
from raygen.sampling.settings import SamplingSettings


def node_streams(settings: SamplingSettings, nodes: Sequence[Node], chains: int, device: torch.device) -> Streams:
    """Return the random numbers of nodes' chains, which depend on the run's seed and each node's name alone."""
    return Streams(tuple(f"{settings.seed}/{node}" for node in nodes), chains, device)
