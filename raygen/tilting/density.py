"""The tilted density in whitened coordinates: p(z) ~ exp(b f(mean + A z)) N(z; 0, I)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raygen.errors import ScoreError
from raygen.tilting.references.base import Reference

Score = Callable[[Tensor], Tensor]
"""A batch of scores: images (N, C, H, W) to (N,), differentiable, row by row."""


class WhitenedScore:
    """The score f as a function of z, with its gradient through the reference's map.

    Args:
        score: f in the precision of the target.
        reference: q.
        force: f again, in a lower precision, for the forces alone: any deterministic force field leaves the integrator
            reversible and volume preserving, so the chains still target the density of ``score``.
    """

    def __init__(self, score: Score, reference: Reference, *, force: Score | None = None) -> None:
        self.score = score
        self.reference = reference
        self.force = force
        self.cheap_forces = force is not None

    def value(self, z: Tensor) -> Tensor:
        """Return f, shape (N,)."""
        self._check(z)
        with torch.no_grad():
            return self.score(self.reference.image(z))

    def gradient(self, z: Tensor) -> Tensor:
        """Return the gradient of f with respect to z, by the cheap score where there is one."""
        return self._differentiate(self.force or self.score, z)[1]

    def value_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return both; in one pass where forces are not cheap."""
        self._check(z)
        if self.force is not None:
            return self.value(z), self.gradient(z)
        return self._differentiate(self.score, z)

    def rows(self, chosen: Tensor) -> WhitenedScore:
        """Return the score of the rows where ``chosen`` (N,) holds, alone.

        A score that has a method ``rows`` of the same meaning is asked for them; of another, whose rows may differ, the
        whole batch is evaluated, the others at zero.
        """
        force = None if self.force is None else _rows(self.force, chosen)
        return WhitenedScore(_rows(self.score, chosen), self.reference, force=force)

    def _differentiate(self, score: Score, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            value = score(self.reference.image(leaf))
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient

    def _check(self, z: Tensor) -> None:
        if tuple(z.shape[1:]) != self.reference.shape:
            raise ScoreError(f"chains of shape {tuple(z.shape[1:])} for a reference of shape {self.reference.shape}",
                             where="reference", right="make the reference of the network's input shape")  # fmt: skip


def _rows(score: Score, chosen: Tensor) -> Score:
    if hasattr(score, "rows"):
        picked: Score = score.rows(chosen)
        return picked
    on = chosen.nonzero()[:, 0]

    def among_zeros(x: Tensor) -> Tensor:
        return score(x.new_zeros((len(chosen), *x.shape[1:])).index_copy(0, on, x))[on]

    return among_zeros
