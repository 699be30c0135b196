"""When a unit's state is saved, and where from it is taken up."""

from __future__ import annotations

import logging
import time

import torch
from torch import Tensor

from raygen.errors import StoreError
from raygen.hmc import to_tensors
from raygen.sampling import SamplerState
from raygen.store import Run, Unit

log = logging.getLogger(__name__)

SAVE_EVERY = 60.0
"""Seconds from one saved state of a unit to the next."""

_SHARE = 0.05
"""Of the time, that saving may take: on a slow storage it is done less often."""


class StateKeeper:
    """Saves a unit's state now and then, when it is called between two trajectories.

    Args:
        run: on whose storage.
        unit: whose state.
        every: seconds from one state to the next, at least.
    """

    def __init__(self, run: Run, unit: Unit, every: float) -> None:
        self._run = run
        self._unit = unit
        self._state = run.state(unit)
        self._every = every
        self._next = time.monotonic() + every

    def __call__(self, state: SamplerState) -> None:
        """Save a state, if it is time. Storage that refuses costs the state, not the unit."""
        start = time.monotonic()
        if start < self._next:
            return
        try:
            # A copy of a unit that another process has finished in the meantime must leave nothing behind.
            if not self._run.location.exists(self._unit.path):
                self._state.write({name: tensor.numpy() for name, tensor in to_tensors(state).items()})
        except (StoreError, OSError) as error:
            log.warning("the state of %s is not saved: %s", self._unit.name, error)
        end = time.monotonic()
        self._next = end + max(self._every, (end - start) / _SHARE)


def read_state(run: Run, unit: Unit) -> dict[str, Tensor] | None:
    """Return the state that was saved of a unit; None where there is none that is whole and of this run."""
    arrays = run.state(unit).read()
    return None if arrays is None else {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
