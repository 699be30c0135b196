"""What a user may decide about the reference and the tilt. Needs no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raygen.settings import Group, Settings

PHOTOGRAPH_EXPONENT = 1.2
"""Exponent of the amplitude spectrum of photographs from 1 to 100 cycles an image (1.21; 1.18 to 1.29 in parts of that
range), measured on 1,000, one of each ImageNet class."""


class FitSettings(Settings):
    """How a reference is fitted to images, and what else is true of those that are not."""

    group: ClassVar[Group] = Group.TILT

    bounded: bool = Field(
        False, description="keep pixels between black and white: their logits have the reference's distribution"
    )
    cutoff: float | None = Field(
        None, gt=0, le=1e6, description="frequency beyond which the reference's spectrum falls off, in cycles an image"
    )
    floor: float = Field(
        0.001, gt=0, le=1, description="least eigenvalue of a fitted covariance, as a fraction of the mean"
    )
    scale: float = Field(1.0, gt=0, le=1e3, description="factor on a fitted reference's standard deviation")


class TiltingSettings(FitSettings):
    """The reference distribution, and how strongly the score tilts it."""

    group: ClassVar[Group] = Group.TILT

    reference: Annotated[Literal["white", "power-law", "fitted"], Group.MAIN] = Field(
        "white", description="distribution that is tilted: white noise, 1/f noise, or a Gaussian fitted to the data"
    )
    sigma: float = Field(10.0, gt=0, le=1e6, description="standard deviation of a pixel, in the network's input units")
    exponent: float = Field(
        PHOTOGRAPH_EXPONENT, ge=0, le=4, description="exponent of the power law's amplitude spectrum"
    )
    reference_file: str | None = Field(
        None, min_length=1, description="file that raygen reference wrote; used instead of reference"
    )
    contrast: Annotated[float | None, Group.MAIN] = Field(
        4.0,
        gt=0,
        le=1e6,
        description="strength of the tilt: power of its signal over the reference's noise; sets each node's tilt",
    )
    tilt: float | None = Field(
        None, gt=0, le=1e9, description="the tilt b itself, the same for all nodes; used instead of contrast"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.tilt is None and self.contrast is None:
            raise ValueError("give a contrast or a tilt")
        return self
