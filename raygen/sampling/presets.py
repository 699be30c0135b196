"""Settings by name: the paper's own, to be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

Preset = Literal["paper-lenet", "paper-alexnet-classes", "paper-alexnet-nodes"]

_PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "kernel": "leapfrog",
        "trajectory": "steps",
        "jitter": 0.0,
        "warm_up": 0,
        "anneal": 0.0,
        "reference": "white",
        "sigma": 10.0,
        "tilt": 1.0,
        "draws": 1,
    }
)

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Section 5.1 of the paper: 300 iterations of 100 steps of 1e-4 at particle mass 1e-4, in image coordinates;
        # a step in whitened coordinates is one in image coordinates over sigma.
        "paper-lenet": {**_PAPER, "steps": 100, "step_size": 1e-4 / 10, "mass": 1e-4, "thin": 300},
        # Section 5.2: 50 steps of 3e-6 at mass 1e-5; 500 iterations for classes, 100 for nodes of convolutions.
        "paper-alexnet-classes": {**_PAPER, "steps": 50, "step_size": 3e-6 / 10, "mass": 1e-5, "thin": 500},
        "paper-alexnet-nodes": {**_PAPER, "steps": 50, "step_size": 3e-6 / 10, "mass": 1e-5, "thin": 100},
    }
)
"""The paper's published settings. Of the AlexNet it does not say sigma; 10 is LeNet's."""
