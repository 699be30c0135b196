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

        Where none of a node's chains has a gradient, as behind a ReLU that seldom opens, the tilt is 0 until one has.

        Raises:
            ScoreError: if a gradient is not finite.
        """
        rows = signal(gradient, reference).view(nodes, -1)
        finite = rows.isfinite().all(1)
        if not bool(finite.all()):
            node = int((~finite).nonzero()[0])
            raise ScoreError(
                "a gradient that is not finite where its chains start",
                where=f"node {node} of the batch",
                right="give a network whose gradients are finite for images of this reference",
                row=node * (len(gradient) // nodes),
            )
        return cls(contrast, reference, _where_told(rows, torch.zeros_like(rows[:, 0])))

    @property
    def tilt(self) -> Tensor:
        """The square root of contrast over mean signal, shape (nodes,); 0 as long as there was no signal."""
        return torch.where(self.mean_signal > 0, (self.contrast / self.mean_signal).sqrt(), 0.0)

    def observe(self, gradient: Tensor) -> ContrastTilt:
        """Take in the signal of every chain that has one."""
        rows = signal(gradient, self.reference).view(len(self.mean_signal), -1)
        now = _where_told(rows, self.mean_signal)
        count = self.count + 1
        weight = (1 + _DECAY) / (count + 1 + _DECAY)
        # A chain where the score is nearly flat says little: the mean never falls by more than half in one step.
        mean = ((1 - weight) * self.mean_signal + weight * now).clamp(min=0.5 * self.mean_signal)
        return replace(self, mean_signal=mean, count=count)


def _where_told(rows: Tensor, otherwise: Tensor) -> Tensor:
    """Return the mean signal of each node's chains (nodes, chains) that have a finite one above 0.

    Where the score is flat, as in front of a closed ReLU, a chain says nothing of where the tilt would lead. Counted as
    0, such chains drove the tilt to a million times what the open ones need, and were never to open.
    """
    told = rows.isfinite() & (rows > 0)
    mean = torch.where(told, rows, 0.0).sum(1) / told.sum(1).clamp(min=1)
    return torch.where(told.any(1), mean, otherwise)
