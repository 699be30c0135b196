"""Reference distributions q, each an exact whitening map x = mean + A z with z ~ N(0, I).

``z`` and ``x`` have the shape (N, C, H, W). The maps are linear torch operations, so automatic differentiation
carries a score's gradient through them exactly.
"""

from raygen.tilting.references.base import Reference
from raygen.tilting.references.files import Provenance, load_reference, save_reference
from raygen.tilting.references.fitted import Fitted
from raygen.tilting.references.power_law import PHOTOGRAPH_COLOURS, PHOTOGRAPH_EXPONENT, PowerLaw
from raygen.tilting.references.spectrum import FittedSpectrum
from raygen.tilting.references.white import WhiteNoise

__all__ = [
    "PHOTOGRAPH_COLOURS",
    "PHOTOGRAPH_EXPONENT",
    "Fitted",
    "FittedSpectrum",
    "PowerLaw",
    "Provenance",
    "Reference",
    "WhiteNoise",
    "load_reference",
    "save_reference",
]
