"""Hamiltonian Monte Carlo for exponentially tilted Gaussians: many chains at once, in whitened coordinates."""

from raygen.hmc.chains import Trace, draw, potential
from raygen.hmc.diagnostics import Diagnostics, EssCurve, diagnose, ess_curve
from raygen.hmc.export import ARVIZ_DIMS, to_arviz
from raygen.hmc.kernel import Kernel
from raygen.hmc.ladder import Annealing, Ladder, find_ladder
from raygen.hmc.log_normaliser import LogNormaliser, log_normaliser, weigh
from raygen.hmc.saving import from_tensors, to_tensors
from raygen.hmc.settings import HmcSettings
from raygen.hmc.state import ChainState, Parameters, ScoreFunction, StepInfo
from raygen.hmc.streams import Noise, Streams
from raygen.hmc.warmup import TiltRule, WarmUp, WarmUpState, begin, warm_up

__all__ = [
    "ARVIZ_DIMS",
    "Annealing",
    "ChainState",
    "Diagnostics",
    "EssCurve",
    "HmcSettings",
    "Kernel",
    "Ladder",
    "LogNormaliser",
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
    "ess_curve",
    "find_ladder",
    "from_tensors",
    "log_normaliser",
    "potential",
    "to_arviz",
    "to_tensors",
    "warm_up",
    "weigh",
]
