"""What a chain is, and what moves it: immutable data that the kernels pass on.

Rows are chains. Everything here is in *whitened* coordinates z, where the reference distribution is N(0, I): the target
is p(z) ~ exp(b f(z) - |z|^2 / 2), the exponential tilt of the paper's section 2 with b the tilt and f the score. States
keep f and its gradient, not b f: the tilt may change between steps (annealing, a contrast to be met) at no evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor

from raygen.hmc.saving import ON_CPU


class ScoreFunction(Protocol):
    """A batch of scores f, row by row: no row's value may depend on another row's position."""

    cheap_forces: bool
    """Whether ``gradient`` is of a lower precision than ``value``, which the acceptance needs then in its own pass."""

    def value(self, z: Tensor) -> Tensor:
        """Return f(z), shape (N,), in the precision of the target, for z of shape (N, ...)."""
        ...

    def gradient(self, z: Tensor) -> Tensor:
        """Return the gradient of f, shaped as z; any deterministic approximation of it leaves the target exact."""
        ...

    def value_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return both, as cheaply as they can be had together."""
        ...

    def rows(self, chosen: Tensor) -> Self:
        """Return the scores of the rows where ``chosen`` (N,) holds, alone."""
        ...


@dataclass(frozen=True)
class ChainState:
    """N chains at rest.

    Attributes:
        position: z, shape (N, ...).
        score: f(z), shape (N,).
        gradient: of f at z, shaped as the position.
    """

    position: Tensor
    score: Tensor
    gradient: Tensor

    def where(self, chosen: Tensor, other: ChainState) -> ChainState:
        """Return the rows of this state where ``chosen`` (N,) holds, and of ``other`` elsewhere.

        A selection, not a product, so that a row of NaN stays in its row.
        """
        wide = along_rows(chosen, self.position)
        return ChainState(
            position=torch.where(wide, self.position, other.position),
            score=torch.where(chosen, self.score, other.score),
            gradient=torch.where(wide, self.gradient, other.gradient),
        )

    def rows(self, chosen: Tensor) -> ChainState:
        """Return the rows where ``chosen`` (N,) holds, alone."""
        return ChainState(self.position[chosen], self.score[chosen], self.gradient[chosen])


@dataclass(frozen=True)
class Parameters:
    """What a kernel is tuned by, one value a chain.

    Attributes:
        step_size: of the integrator, shape (N,); radians for the rotation.
        tilt: b, shape (N,).
        steps: integration steps of a trajectory, shape (N,), int64, on the CPU; None takes the kernel's for all.
    """

    step_size: Tensor
    tilt: Tensor
    steps: Tensor | None = field(default=None, metadata=ON_CPU)

    def rows(self, chosen: Tensor) -> Parameters:
        """Return the rows where ``chosen`` (N,) holds, alone."""
        steps = None if self.steps is None else self.steps[chosen.to(self.steps.device)]
        return Parameters(self.step_size[chosen], self.tilt[chosen], steps)


@dataclass(frozen=True)
class StepInfo:
    """What happened in one step, one value a chain.

    Attributes:
        acceptance: probability, min(1, exp(-energy error)).
        accepted: whether the proposal was taken.
        energy_error: change of the Hamiltonian along the trajectory; infinite where it was not finite.
        diverged: whether that error was over 1000 or not finite.
        steps: integration steps made, each one gradient; int64.
        length: of the trajectory, its steps times their jittered size; radians for the rotation.
        proposal: where the trajectory ended, and with which ``momentum`` (N, ...), whether taken or not.
    """

    acceptance: Tensor
    accepted: Tensor
    energy_error: Tensor
    diverged: Tensor
    steps: Tensor
    length: Tensor
    proposal: ChainState
    momentum: Tensor


def along_rows(values: Tensor, like: Tensor) -> Tensor:
    """Return ``values`` (N,) shaped so that it multiplies ``like`` (N, ...) row by row."""
    return values.view(-1, *([1] * (like.dim() - 1)))


def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the dot product of each row of ``a`` with the same row of ``b``; both (N, ...), the result (N,)."""
    dot: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return dot
