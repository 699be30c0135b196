"""One step of a chain: a fresh momentum, a trajectory, an acceptance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raygen.errors import ScoreError
from raygen.hmc.integrators import INTEGRATORS, follow
from raygen.hmc.state import ChainState, Parameters, ScoreFunction, StepInfo
from raygen.hmc.streams import Noise

DIVERGENCE = 1000.0
"""Energy error beyond which a trajectory counts as diverged; Stan's and PyMC's value."""


@dataclass(frozen=True)
class Kernel:
    """Hamiltonian Monte Carlo with trajectories whose number of steps is given.

    Attributes:
        integrator: "rotation" (exact flow of the reference) or "leapfrog" (the paper's).
        steps: integration steps, each one gradient, of a trajectory; 1 is a Langevin step. Parameters may give each
            chain its own.
        jitter: each trajectory's step size is the chain's times a uniform number in 1 -+ jitter, so that trajectories
            do not fall in step with the target's periods.
        adjusted: False takes every finite proposal (unadjusted Langevin): biased, for comparison.
        mass: of the particles, as the paper has it; only step size over its square root matters.
    """

    integrator: Literal["rotation", "leapfrog"] = "rotation"
    steps: int = 8
    jitter: float = 0.2
    adjusted: bool = True
    mass: float = 1.0

    def init(self, score: ScoreFunction, position: Tensor) -> ChainState:
        """Return chains at rest at ``position`` (N, ...).

        Raises:
            ScoreError: if a score or its gradient is not finite there.
        """
        value, gradient = score.value_and_gradient(position)
        finite = value.isfinite() & gradient.flatten(1).isfinite().all(1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise ScoreError(
                f"the score of chain {row} is {value[row].item():g} at its start, or its gradient is not finite",
                where="score",
                right="give a network whose responses are finite for images of this reference",
                row=row,
            )
        return ChainState(position, value, gradient)

    def step(
        self, state: ChainState, parameters: Parameters, score: ScoreFunction, noise: Noise
    ) -> tuple[ChainState, StepInfo]:
        """Move every chain once.

        Evaluates as many gradients as a trajectory has steps, and one value more where forces are cheap. A chain whose
        energy error is over 1000 or not finite stays where it is; its neighbours do not notice.

        Args:
            state: where the chains are.
            parameters: step sizes and tilts.
            score: the scores; the same as the state's.
            noise: of this iteration, one row a chain.
        """
        jittered = parameters.step_size * (1 + self.jitter * (2 * noise.jitter - 1)) / math.sqrt(self.mass)
        turned = Parameters(jittered, parameters.tilt)
        steps = jittered.new_full(jittered.shape, self.steps, dtype=torch.int64, device="cpu")
        if parameters.steps is not None:
            steps = parameters.steps.cpu()
        trajectory = follow(INTEGRATORS[self.integrator], score, state, noise.momentum, turned, steps)
        error = trajectory.work - parameters.tilt * (trajectory.end.score - state.score)
        error = torch.where(error.isfinite(), error, torch.inf)
        diverged = error > DIVERGENCE
        acceptance = (-error).clamp(max=0).exp()
        accepted = (noise.acceptance < acceptance) & ~diverged if self.adjusted else error.isfinite()
        return trajectory.end.where(accepted, state), StepInfo(
            acceptance, accepted, error, diverged,
            steps=steps, length=jittered * steps.to(jittered), proposal=trajectory.end, momentum=trajectory.momentum,
        )  # fmt: skip
