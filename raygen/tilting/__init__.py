"""Exponential tilting: references, the tilted density, the tilt's strength, and the losses that train with it."""

from raygen.tilting.contrast import ContrastTilt, FixedTilt, signal
from raygen.tilting.density import Score, WhitenedScore
from raygen.tilting.references import Fitted, PowerLaw, Reference, WhiteNoise
from raygen.tilting.settings import TiltingSettings

__all__ = [
    "ContrastTilt",
    "Fitted",
    "FixedTilt",
    "PowerLaw",
    "Reference",
    "Score",
    "TiltingSettings",
    "WhiteNoise",
    "WhitenedScore",
    "signal",
]
