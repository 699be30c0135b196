"""What a user may decide about the kernel and its warm-up. Needs no torch, until a kernel is made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raygen.errors import SettingsError
from raygen.settings import Group, Settings

if TYPE_CHECKING:
    from raygen.hmc.kernel import Kernel
    from raygen.hmc.warmup import WarmUp


class HmcSettings(Settings):
    """The kernel and its adaptation."""

    group: ClassVar[Group] = Group.STEPS

    kernel: Literal["rotation", "leapfrog", "langevin"] = Field(
        "rotation",
        description="integrator: exact rotation of the reference, the paper's leapfrog, or one Langevin step",
    )
    steps: int = Field(8, ge=1, le=10_000, description="gradients of a trajectory, at most")
    trajectory: Literal["angle", "chees", "steps"] = Field(
        "angle",
        description="length of a trajectory: the angle, adapted to each node by ChEES, or always the steps",
    )
    angle: float = Field(1.3, gt=0, le=math.pi / 2, description="length of a trajectory in radians, if not cut short")
    step_size: float | None = Field(
        None, gt=0, le=10, description="fixed step size, in radians for the rotation; adapted if not set"
    )
    mass: float = Field(
        1.0, gt=0, le=1e6, description="mass of the particles; step size over its square root is what counts"
    )
    jitter: float = Field(0.2, ge=0, lt=1, description="relative spread of each trajectory's step size")
    adjusted: bool = Field(True, description="accept or reject (Metropolis); false is biased, for comparison")
    acceptance: float = Field(0.65, gt=0, lt=1, description="acceptance rate that the step size is adapted to")
    each_chain: bool = Field(False, description="adapt the step size for every chain instead of every node")
    warm_up: int = Field(100, ge=0, le=1_000_000, description="trajectories of warm-up")
    anneal: float = Field(0.4, ge=0, le=1, description="fraction of warm-up over which the tilt rises from zero")

    resample: bool = Field(
        False, description="let chains that fall behind while the tilt rises give way to copies of those ahead"
    )

    @property
    def kernel_steps(self) -> int:
        """Gradients of a trajectory, at most."""
        return 1 if self.kernel == "langevin" else self.steps

    def make_kernel(self) -> Kernel:
        """Return the kernel that is asked for."""
        from raygen.hmc.kernel import Kernel  # noqa: PLC0415  (settings do without torch)

        if self.kernel == "langevin":
            # One leapfrog step with a fresh momentum is the Metropolis-adjusted Langevin algorithm (Neal 2011, 5.2).
            return Kernel("leapfrog", self.kernel_steps, self.jitter, self.adjusted, self.mass)
        return Kernel(self.kernel, self.kernel_steps, self.jitter, self.adjusted, self.mass)

    def make_warm_up(self) -> WarmUp:
        """Return the warm-up that is asked for."""
        from raygen.hmc.warmup import WarmUp  # noqa: PLC0415  (settings do without torch)

        angle = None if self.trajectory == "steps" else self.angle
        return WarmUp(self.warm_up, self.anneal, self.acceptance, self.step_size, self.each_chain, angle,
                      self.trajectory == "chees", self.resample)  # fmt: skip


def check_superchains(superchains: int, chains: int) -> int:
    """Return ``superchains``; raise SettingsError where ``chains`` do not make that many groups of one size."""
    if not 2 <= superchains <= chains or chains % superchains:
        raise SettingsError(f"superchains = {superchains} for {chains} chains", where="superchains",
                            right=f"give a divisor of {chains} of at least 2")  # fmt: skip
    return superchains
