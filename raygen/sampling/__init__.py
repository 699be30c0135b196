"""The chains of one unit: from nodes to rows of the store. Runs without Ray."""

from raygen.sampling.progress import UnitProgress
from raygen.sampling.reference import SavedReference, Source, check_saved, fit_reference, make_reference
from raygen.sampling.sampler import Profile, UnitSampler, UnitTrace
from raygen.sampling.settings import SamplingSettings

__all__ = [
    "Profile",
    "SamplingSettings",
    "SavedReference",
    "Source",
    "UnitProgress",
    "UnitSampler",
    "UnitTrace",
    "check_saved",
    "fit_reference",
    "make_reference",
]
