"""What a user may decide about the sampling of nodes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from raygen.hmc import HmcSettings
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

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, values: Any) -> Any:
        preset = PRESETS.get(values.get("preset", "")) if isinstance(values, dict) else None
        return values if preset is None else {**preset, **values}
