"""Exponential tilting: references, the tilted density, the tilt's strength, and the losses that train with it."""

from raygen.tilting.contrast import ContrastTilt, FixedTilt, signal
from raygen.tilting.density import Score, WhitenedScore
from raygen.tilting.references import (
    Fitted,
    FittedSpectrum,
    PowerLaw,
    Provenance,
    Reference,
    WhiteNoise,
    load_reference,
    save_reference,
)
from raygen.tilting.settings import FitSettings, TiltingSettings

__all__ = [
    "ContrastTilt",
    "FitSettings",
    "Fitted",
    "FittedSpectrum",
    "FixedTilt",
    "PowerLaw",
    "Provenance",
    "Reference",
    "Score",
    "TiltingSettings",
    "WhiteNoise",
    "WhitenedScore",
    "load_reference",
    "save_reference",
    "signal",
]
