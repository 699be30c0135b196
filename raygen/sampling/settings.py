"""What a user may decide about the sampling of nodes, and the paper's own settings by name. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from raygen.errors import SettingsError
from raygen.hmc import HmcSettings, check_superchains
from raygen.settings import Group, Settings
from raygen.tilting import TiltingSettings

if TYPE_CHECKING:
    from raygen.hmc import WarmUp

Preset = Literal["quick", "faithful", "paper-lenet", "paper-alexnet-classes", "paper-alexnet-nodes"]

_PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "kernel": "leapfrog",
        "trajectory": "steps",
        "jitter": 0.0,
        "warm_up": 0,
        "anneal": 0.0,
        "reference": "white",
        "bounded": False,
        "sigma": 10.0,
        "tilt": 1.0,
        "views": 0,
        "draws": 1,
    }
)

PHOTOGRAPHS: Mapping[str, Any] = MappingProxyType(
    {"reference": "power-law", "bounded": True, "exponent": 1.2, "sigma": 1.0, "contrast": 64.0, "views": 2,
     "climb": 96}
)  # fmt: skip
"""What shows classes of an ImageNet network legibly in the fewest gradients, of all that was tried."""

FEATURES: Mapping[str, Any] = MappingProxyType(
    {**PHOTOGRAPHS, "exponent": 1.5, "contrast": 4.0, "views": 0, "climb": 0}
)
"""The same for nodes within such a network: what they respond to shows at a weaker tilt, which mixes, and moved views
of their small images hardly differ."""

MODES: Mapping[str, Any] = MappingProxyType({**PHOTOGRAPHS, "views": 0, "climb": 0})
"""The same for modes of classes: each step has a view of its own."""

FEATURE_MODES: Mapping[str, Any] = MappingProxyType({**MODES, "contrast": 16.0})
"""The same for modes of nodes within such a network, whose colours saturate at more."""

MODE_STEPS = 128
"""Steps uphill that ``raygen look`` makes."""

_WAITED_FOR: Mapping[str, Any] = MappingProxyType({"chains": 4, "draws": 4, "thin": 4, "warm_up": 60})
"""As many as a person waits for: a minute or two on one core for a class of the SqueezeNet at 112 pixels, which takes
20 ms a gradient."""

_NEAR_MODES = 30
"""Trajectories of warm-up that chains need which start near modes."""

_AFFORDED = 600_000
"""Trajectories of a node within such a network, warm-up included, times the pixels of its image: what takes some 30 s
on one core. The node ends sooner where it has converged."""

_MOST = 2000
"""Such trajectories at most, however small the image."""

_REFERENCE = {"reference", "reference_file", "bounded", "sigma", "exponent", "cutoff", "floor", "scale"}
"""Settings by which users describe a reference of their own."""

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # A first look: what is there.
        "quick": {**PHOTOGRAPHS, "chains": 2, "draws": 2, "thin": 2, "warm_up": 16},
        # As weak a tilt as lets the plain score of most nodes converge, and as many trajectories as that takes.
        "faithful": {**FEATURES, "warm_up": 200, "budget": 4000},
        # Section 5.1 of the paper: 300 iterations of 100 steps of 1e-4 at particle mass 1e-4, in image coordinates;
        # a step in whitened coordinates is one in image coordinates over sigma.
        "paper-lenet": {**_PAPER, "steps": 100, "step_size": 1e-4 / 10, "mass": 1e-4, "thin": 300},
        # Section 5.2: 50 steps of 3e-6 at mass 1e-5; 500 iterations for classes, 100 for nodes of convolutions.
        "paper-alexnet-classes": {**_PAPER, "steps": 50, "step_size": 3e-6 / 10, "mass": 1e-5, "thin": 500},
        "paper-alexnet-nodes": {**_PAPER, "steps": 50, "step_size": 3e-6 / 10, "mass": 1e-5, "thin": 100},
    }
)
"""Settings that go together, where the user gives no others. The paper gives no sigma of the AlexNet; 10 is LeNet's."""


class ModeSettings(TiltingSettings):
    """What decides the modes of nodes; and of their samples, where chains start and in what distribution they move."""

    group: ClassVar[Group] = Group.CHAINS

    chains: Annotated[int, Group.MAIN] = Field(8, ge=1, le=4096, description="chains of each node")
    seed: Annotated[int, Group.MAIN] = Field(0, ge=0, lt=2**63, description="seed of all random numbers")
    mode_steps: int | None = Field(
        None, ge=1, le=100_000,
        description=f"steps uphill to a mode for each chain, which is no sample; raygen look makes {MODE_STEPS}",
    )  # fmt: skip


class ChainSettings(Settings):
    """How many draws of how many chains, and when a node has converged."""

    group: ClassVar[Group] = Group.CHAINS

    superchains: Annotated[int | None, Group.CONVERGENCE] = Field(
        None, ge=2, le=4096,
        description="groups of a node's chains that share a start; nested R-hat then decides what has converged",
    )  # fmt: skip
    draws: Annotated[int, Group.MAIN] = Field(8, ge=1, le=100_000, description="samples kept of each chain")
    thin: int = Field(10, ge=1, le=100_000, description="trajectories from one kept sample to the next")
    budget: Annotated[int | None, Group.CONVERGENCE] = Field(
        None, ge=1, le=10_000_000,
        description="stop a node when it has converged, or after this many trajectories past warm-up",
    )  # fmt: skip
    r_hat: Annotated[float, Group.CONVERGENCE] = Field(
        1.05, gt=1, description="largest R-hat (or nested R-hat) of a node that counts as converged"
    )
    ess: Annotated[float, Group.CONVERGENCE] = Field(
        50, gt=0, description="least effective sample size of the score of a node that counts as converged"
    )

    @property
    def iterations(self) -> int:
        """Trajectories after warm-up; where there is a budget, those until it is first asked what has converged."""
        return self.draws * self.thin

    @property
    def longest(self) -> int:
        """Trajectories after warm-up at most."""
        return self.budget or self.iterations


class SamplingSettings(ModeSettings, ChainSettings, HmcSettings):
    """Everything that decides the samples of a given network's nodes."""

    group: ClassVar[Group] = Group.CHAINS

    preset: Preset | None = Field(
        None, description="settings for a first look, for convergence or of the paper, where you give no others"
    )
    climb: Annotated[int, Group.STEPS] = Field(
        0, ge=0, le=100_000,
        description="steps uphill to a mode near which each chain starts; 0 starts at a draw from the reference",
    )  # fmt: skip
    crop: Annotated[bool, Group.NETWORK] = Field(
        True, description="sample convolution nodes at the size of their receptive field"
    )
    forces: Annotated[Literal["float32", "bfloat16"], Group.STEPS] = Field(
        "float32", description="precision of the forces; the acceptance is float32 always, so the target stays exact"
    )
    batch: Annotated[int, Group.COMPUTE] = Field(
        128, ge=1, le=65536, description="images that share one forward and backward pass, at most: chains, times views"
    )
    views: Annotated[int, Group.TILT] = Field(
        0, ge=0, le=256,
        description="score an image by the mean over so many shifted and zoomed views of it; 0 is the plain score",
    )  # fmt: skip
    log_z: Annotated[bool, Group.CONVERGENCE] = Field(
        False, description="estimate log Z of each node by annealed importance sampling"
    )
    log_z_rungs: Annotated[int | None, Group.CONVERGENCE] = Field(
        None,
        ge=1,
        le=100_000,
        description="tilts on the way to log Z; if not set, as many as lose 1 % of the chains each",
    )

    @property
    def together(self) -> int:
        """Chains that share a pass, at most: each is as many images as it has views."""
        return max(1, self.batch // max(1, self.views))

    @property
    def gradients(self) -> int:
        """Gradients of one chain in all, at most: shorter trajectories take fewer."""
        if self.mode_steps is not None:
            return self.mode_steps
        return self.climb_gradients + (self.warm_up + self.longest) * self.kernel_steps

    @property
    def climb_gradients(self) -> int:
        """Gradients of a chain on the way to its start: each of one view, where the others are of all."""
        return math.ceil(self.climb / max(1, self.views))

    @override
    def make_warm_up(self) -> WarmUp:
        """Return the warm-up that is asked for: chains that start near a mode would leave it at a weaker tilt."""
        plan = super().make_warm_up()
        return replace(plan, anneal=0.0) if self.climb else plan

    def for_images_of(self, channels: int, side: int, *, classes: bool = True) -> Self:
        """Return the settings for a network of images of so many channels, where the user gave no others.

        They are ``PHOTOGRAPHS`` or ``FEATURES`` for colour images, and as many trajectories as a person waits for.
        Where the user describes a reference, only its sigma is filled in: the paper's 10 is for pixels from 0 to 255,
        not for normalised ones. A preset is what its name says.

        Args:
            channels: 3 for colour images.
            side: of the largest images that are sampled, in pixels.
            classes: whether there are nodes of the last layer among those asked for.
        """
        if channels != 3 or self.preset is not None:
            return self
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        seeks = self.mode_steps is not None
        of_classes, within = (MODES, FEATURE_MODES) if seeks else (PHOTOGRAPHS, FEATURES)
        fills: dict[str, Any] = dict(of_classes if classes else within)
        if given & _REFERENCE:
            fills = {"sigma": fills["sigma"]}
        elif "tilt" in given:
            del fills["contrast"]
        if self.resample or "anneal" in given:  # which ask for a tilt that rises
            fills.pop("climb", None)
        fills |= {name: few for name, few in _WAITED_FOR.items() if name != "chains" or self.superchains is None}
        if not classes and not seeks and not given & {"draws", "thin"}:
            fills["budget"] = min(_AFFORDED // side**2, _MOST) - _WAITED_FOR["warm_up"]
        if self.climb or ("climb" not in given and fills.get("climb")):
            fills["warm_up"] = _NEAR_MODES
        found = self.model_copy(update={name: value for name, value in fills.items() if name not in given})
        short = found.budget is not None and found.budget < found.iterations
        return found.model_copy(update={"budget": found.iterations}) if short else found

    def of_modes(self) -> Self:
        """Return the settings that seek a mode for each chain instead, where the user has not described the tilt.

        Of what was given, the reference, the chains, the seed and what decides the network's cut remain.
        """
        kept = self.model_fields_set & (_REFERENCE | {"chains", "seed", "crop", "forces", "batch"})
        return type(self)(**{name: getattr(self, name) for name in kept}, mode_steps=self.mode_steps or MODE_STEPS)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, values: Any) -> Any:
        name = values.get("preset") if isinstance(values, dict) else None
        preset = PRESETS.get(name) if isinstance(name, str) else None
        return values if preset is None else {**preset, **values}

    @model_validator(mode="before")
    @classmethod
    def _one_mode_a_chain(cls, values: Any) -> Any:
        seeks = isinstance(values, dict) and values.get("mode_steps") is not None
        return {"draws": 1, "thin": 1, "warm_up": 0, **values} if seeks else values

    @model_validator(mode="after")
    def _modes_alone(self) -> Self:
        if self.mode_steps is None:
            return self
        for name in ("log_z", "resample", "superchains", "budget", "views", "climb"):
            if getattr(self, name):
                raise SettingsError(f"{name} with mode_steps, which seeks modes and draws nothing", where=name,
                                    right="leave one of them out")  # fmt: skip
        if self.draws != 1:
            raise SettingsError(f"{self.draws} draws with mode_steps, which seeks one mode for each chain",
                                where="draws", right="give chains instead")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.superchains is not None:
            check_superchains(self.superchains, self.chains)
            if self.resample:
                raise SettingsError("resample with superchains, whose chains keep to themselves", where="resample",
                                    right="leave one of them out")  # fmt: skip
        if self.resample and self.climb:
            raise SettingsError("resample with climb, whose chains start where the tilt has risen", where="resample",
                                right="leave one of them out")  # fmt: skip
        if self.longest < self.iterations:
            raise SettingsError(f"budget = {self.budget} for {self.draws} draws, each {self.thin} trajectories",
                                where="budget", right=f"give at least {self.iterations}, or fewer draws")  # fmt: skip
        if self.log_z and not self.adjusted:
            raise SettingsError("log_z with adjusted = false, a kernel that is biased", where="log_z",
                                right="leave one of them out")  # fmt: skip
        return self
