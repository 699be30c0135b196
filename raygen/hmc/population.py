"""Annealed sequential Monte Carlo: while the tilt rises, chains that fall behind give way to copies of those ahead.

Each chain carries the weight by which the annealed importance sampler would correct it (Neal 2001). Where the weights
of a node's chains are worth fewer than half of them, the chains are drawn anew in proportion to the weights (Del Moral,
Doucet & Jasra 2006). So modes come out with nearly their right shares, and no chain stays behind at the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from raygen.hmc.saving import ON_CPU

_LEAST = 0.5
"""Effective sample size of a node's weights, as a share of its chains, under which they are drawn anew."""


@dataclass(frozen=True)
class Population:
    """The weights of N chains, those of a node side by side, and where the chains come from.

    Attributes:
        log_weight: since the node's chains were last drawn anew, (N,) float64.
        ancestor: the number, within its node, of the chain from whose start each comes, (N,) int64.
    """

    log_weight: Tensor
    ancestor: Tensor = field(metadata=ON_CPU)

    @classmethod
    def begin(cls, score: Tensor, nodes: int) -> Population:
        """Return even weights for chains with ``score`` (N,), each its own ancestor."""
        return cls(torch.zeros_like(score, dtype=torch.float64), torch.arange(len(score) // nodes).repeat(nodes))

    def weigh(self, change: Tensor, score: Tensor) -> Population:
        """Take in that the tilt changes by ``change`` (N,) where the chains have ``score`` (N,)."""
        return Population(self.log_weight + change.double() * score.double(), self.ancestor)

    def select(self, uniform: Tensor, *, last: bool = False) -> tuple[Population, Tensor | None]:
        """Draw the chains anew of each node where it is due.

        Systematic resampling: a chain of weight w among n has n w copies, rounded up or down. A chain that survives
        keeps its place, and copies take the places of those that do not.

        Args:
            uniform: a number in [0, 1) for each node, shape (nodes,).
            last: whether the chains go on without weights, so that any unevenness is to be made up for now.

        Returns:
            The population after it, and the number of the chain that each is now a copy of, (N,) int64 on the CPU; None
            where every chain stays.
        """
        weight = self.log_weight.view(len(uniform), -1).softmax(1).cpu()
        chains = weight.shape[1]
        due = weight.square().sum(1) * chains * (1.0 if last else _LEAST) > 1
        if not bool(due.any()):
            return self, None
        own = torch.arange(chains)
        rows = [_copied(weight[node], float(uniform[node])) if due[node] else own for node in range(len(uniform))]
        chosen = torch.cat([node * chains + row for node, row in enumerate(rows)])
        kept = (~due).repeat_interleave(chains).to(self.log_weight.device)
        return Population(torch.where(kept, self.log_weight, 0.0), self.ancestor[chosen]), chosen


def _copied(weight: Tensor, uniform: float) -> Tensor:
    """Return of which chain each chain of a node is now a copy, by its ``weight`` (n,), whose sum is 1."""
    chains = len(weight)
    points = (torch.arange(chains, dtype=torch.float64) + uniform) / chains
    drawn = torch.searchsorted(weight.cumsum(0), points, right=True).clamp(max=chains - 1)
    counts = torch.bincount(drawn, minlength=chains)
    rows = torch.arange(chains)
    rows[counts == 0] = rows.repeat_interleave((counts - 1).clamp(min=0))
    return rows
