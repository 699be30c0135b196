"""What a user may decide about the sampling of nodes."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from raygen.errors import SettingsError
from raygen.hmc import HmcSettings, check_superchains
from raygen.sampling.presets import PRESETS, Preset
from raygen.tilting import TiltingSettings


class SamplingSettings(TiltingSettings, HmcSettings):
    """Everything that decides the samples of a given network's nodes."""

    preset: Preset | None = Field(None, description="settings of the paper, where no others are given")
    seed: int = Field(0, ge=0, lt=2**63, description="of all random numbers")
    crop: bool = Field(True, description="sample convolution nodes at the size of their receptive field")
    forces: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision of the forces; the acceptance is float32 always, so the target stays exact"
    )
    batch: int = Field(128, ge=1, le=65536, description="chains that share one forward and backward pass, at most")
    log_z: bool = Field(False, description="estimate log Z of each node by annealed importance sampling")
    log_z_rungs: int | None = Field(
        None, ge=1, le=100_000, description="tilts on the way to log Z; default as many as lose 1 % of the chains each"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, values: Any) -> Any:
        preset = PRESETS.get(values.get("preset", "")) if isinstance(values, dict) else None
        return values if preset is None else {**preset, **values}

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.superchains is not None:
            check_superchains(self.superchains, self.chains)
        if self.longest < self.iterations:
            raise SettingsError(f"budget = {self.budget} for {self.draws} draws, each {self.thin} trajectories",
                                where="budget", right=f"give at least {self.iterations}, or fewer draws")  # fmt: skip
        if self.log_z and not self.adjusted:
            raise SettingsError("log_z with adjusted = false, a kernel that is biased", where="log_z",
                                right="leave one of them out")  # fmt: skip
        return self
