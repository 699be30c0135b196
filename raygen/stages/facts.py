"""What the folders of all stages are told with, and how their owner is held to them."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TypeVar

import torch
import torchvision

import raygen
from raygen.store import Lock

Report = TypeVar("Report")


def about() -> dict[str, str]:
    """Return the versions that a run is told with."""
    return {
        "raygen": raygen.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }


def while_held(lock: Lock, tell: Callable[[Report], None]) -> Callable[[Report], None]:
    """Return what passes on reports as long as the folder is this process's."""

    def pass_on(report: Report) -> None:
        lock.check()
        tell(report)

    return pass_on
