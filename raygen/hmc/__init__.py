"""Hamiltonian Monte Carlo for exponentially tilted Gaussians: many chains at once, in whitened coordinates."""

from raygen.hmc.chains import Trace, draw, potential
from raygen.hmc.diagnostics import Diagnostics, diagnose
from raygen.hmc.kernel import Kernel
from raygen.hmc.settings import HmcSettings
from raygen.hmc.state import ChainState, Parameters, ScoreFunction, StepInfo
from raygen.hmc.streams import Noise, Streams
from raygen.hmc.warmup import TiltRule, WarmUp, WarmUpState, begin, warm_up

__all__ = [
    "ChainState",
    "Diagnostics",
    "HmcSettings",
    "Kernel",
    "Noise",
    "Parameters",
    "ScoreFunction",
    "StepInfo",
    "Streams",
    "TiltRule",
    "Trace",
    "WarmUp",
    "WarmUpState",
    "begin",
    "diagnose",
    "draw",
    "potential",
    "warm_up",
]
