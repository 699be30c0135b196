"""What a user may decide about the chains."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from raygen.hmc.kernel import Kernel
from raygen.hmc.warmup import WarmUp
from raygen.settings import Settings


class HmcSettings(Settings):
    """The kernel, its adaptation, and how many draws of how many chains."""

    kernel: Literal["rotation", "leapfrog", "langevin"] = Field(
        "rotation",
        description="integrator: exact rotation of the reference, the paper's leapfrog, or one Langevin step",
    )
    steps: int = Field(8, ge=1, le=10_000, description="gradients of a trajectory, at most")
    trajectory: Literal["angle", "chees", "steps"] = Field(
        "angle",
        description="length of a trajectory: the angle, or adapted to each node by ChEES, or always the steps",
    )
    angle: float = Field(1.3, gt=0, le=math.pi / 2, description="length of a trajectory in radians, if not cut short")
    step_size: float | None = Field(
        None, gt=0, le=10, description="fixed step size, in radians for the rotation; adapted where not given"
    )
    mass: float = Field(
        1.0, gt=0, le=1e6, description="of the particles; step size over its square root is what counts"
    )
    jitter: float = Field(0.2, ge=0, lt=1, description="relative spread of each trajectory's step size")
    adjusted: bool = Field(True, description="accept or reject (Metropolis); false is biased, for comparison")
    acceptance: float = Field(0.65, gt=0, lt=1, description="acceptance rate that the step size is adapted to")
    each_chain: bool = Field(False, description="adapt the step size for every chain instead of every node")
    warm_up: int = Field(100, ge=0, le=1_000_000, description="trajectories of warm-up")
    anneal: float = Field(0.4, ge=0, le=1, description="fraction of warm-up over which the tilt rises from zero")
    chains: int = Field(8, ge=1, le=4096, description="chains of each node")
    superchains: int | None = Field(
        None, ge=2, le=4096,
        description="groups of a node's chains that share a start; then nested R-hat says what has converged",
    )  # fmt: skip
    draws: int = Field(8, ge=1, le=100_000, description="samples kept of each chain")
    thin: int = Field(10, ge=1, le=100_000, description="trajectories from one kept sample to the next")
    budget: int | None = Field(
        None, ge=1, le=10_000_000,
        description="stop each node once it has converged, or after so many trajectories past warm-up",
    )  # fmt: skip
    r_hat: float = Field(1.05, gt=1, description="largest R-hat, or nested R-hat, of a node that counts as converged")
    ess: float = Field(
        50, gt=0, description="least effective sample size of the score for a node to count as converged"
    )

    @property
    def iterations(self) -> int:
        """Trajectories after warm-up; where there is a budget, those until it is first asked what has converged."""
        return self.draws * self.thin

    @property
    def longest(self) -> int:
        """Trajectories after warm-up at most."""
        return self.budget or self.iterations

    @property
    def gradients(self) -> int:
        """Gradients of one chain, all told, at most: shorter trajectories take fewer."""
        return (self.warm_up + self.longest) * self.make_kernel().steps

    def make_kernel(self) -> Kernel:
        """Return the kernel that is asked for."""
        if self.kernel == "langevin":
            # One leapfrog step with a fresh momentum is the Metropolis-adjusted Langevin algorithm (Neal 2011, 5.2).
            return Kernel("leapfrog", 1, self.jitter, self.adjusted, self.mass)
        return Kernel(self.kernel, self.steps, self.jitter, self.adjusted, self.mass)

    def make_warm_up(self) -> WarmUp:
        """Return the warm-up that is asked for."""
        angle = None if self.trajectory == "steps" else self.angle
        return WarmUp(self.warm_up, self.anneal, self.acceptance, self.step_size, self.each_chain, angle,
                      self.trajectory == "chees")  # fmt: skip
