"""How strong the tilt is: given as b, or as a contrast from which b is found node by node.

The *contrast* |b A A' grad_x f|^2 / trace(A A') is the power of the signal that the tilt puts into an image over the
power of the reference's noise: for a linear score exactly that of the samples. It has no unit, so one number serves
nodes whose responses differ by orders of magnitude. With the gradient in z, A' grad_x f = grad_z f.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from raygen.errors import ScoreError
from raygen.tilting.references.base import Reference

_DECAY = 7
"""Polynomial decay of the running mean (Shamir & Zhang 2013): it looks back on the last eighth or so of its
observations, however many. While the tilt is annealed in the chains still climb, and early signals, several times as
large for nodes of convolutions, mislead: with 3 their contrasts came out at 0.75 to 1 of what was asked."""


def signal(gradient: Tensor, reference: Reference) -> Tensor:
    """Return |A g|^2 / trace(A A') of each row: the contrast at b = 1, shape (N,)."""
    return reference.linear(gradient).flatten(1).square().sum(1) / reference.power


@dataclass(frozen=True)
class FixedTilt:
    """The same b, whatever the chains meet. ``tilt`` has shape (nodes,)."""

    tilt: Tensor

    def observe(self, gradient: Tensor) -> FixedTilt:
        """Learn nothing."""
        del gradient
        return self


@dataclass(frozen=True)
class ContrastTilt:
    """The b that gives each node's chains a contrast on average, from a running mean of the signal where they are.

    Attributes:
        contrast: to be reached, above 0.
        reference: q.
        mean_signal: running mean of each node, shape (nodes,).
        count: observations so far.
    """

    contrast: float
    reference: Reference = field(metadata={"constant": True})  # as raygen.hmc.CONSTANT has it
    mean_signal: Tensor
    count: int = 0

    @classmethod
    def begin(cls, contrast: float, reference: Reference, gradient: Tensor, nodes: int) -> ContrastTilt:
        """Begin from the gradients at the chains' starts, shape (nodes * chains, ...).

        Raises:
            ScoreError: if no chain of a node has a gradient, so that no tilt can move it, or one that is not finite.
        """
        first = signal(gradient, reference).view(nodes, -1).mean(1)
        usable = (first > 0) & first.isfinite()
        if not bool(usable.all()):
            node = int((~usable).nonzero()[0])
            raise ScoreError(
                f"no gradient that a tilt could follow (mean square {first[node].item():g}) where its chains start",
                where=f"node {node} of the batch",
                right="leave dead nodes out, or give the tilt as a number",
                row=node * (len(gradient) // nodes),
            )
        return cls(contrast, reference, first)

    @property
    def tilt(self) -> Tensor:
        """The square root of contrast over mean signal, shape (nodes,)."""
        return (self.contrast / self.mean_signal).sqrt()

    def observe(self, gradient: Tensor) -> ContrastTilt:
        """Take in the signal of every chain; chains without a finite one are left out."""
        nodes = self.mean_signal.shape[0]
        rows = signal(gradient, self.reference).view(nodes, -1)
        now = torch.where(rows.isfinite(), rows, self.mean_signal[:, None]).mean(1)
        count = self.count + 1
        weight = (1 + _DECAY) / (count + 1 + _DECAY)
        # A chain where the score is flat says little: the mean never falls by more than half in one step.
        mean = ((1 - weight) * self.mean_signal + weight * now).clamp(min=0.5 * self.mean_signal)
        return replace(self, mean_signal=mean, count=count)
