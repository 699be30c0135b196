"""The state of a run after an epoch: all that the next epoch depends on."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from raygen.errors import WeightsError
from raygen.training.reports import EpochReport

State = dict[str, Any]


def make_state(
    module: nn.Module, optimiser: torch.optim.Optimizer, history: tuple[EpochReport, ...], seed: int
) -> State:
    """Return the state as plain values and tensors of its own in memory."""
    weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}
    kept = optimiser.state_dict()
    momenta = {
        index: {
            name: value.to("cpu", copy=True) if isinstance(value, Tensor) else value for name, value in entry.items()
        }
        for index, entry in kept["state"].items()
    }
    return {
        "weights": weights,
        "optimiser": {**kept, "state": momenta},
        # The schedule is a function of the epoch and the history (where it switched).
        "epoch": len(history),
        "history": [asdict(report) for report in history],
        # All random numbers of an epoch come from (seed, epoch, rank), so this is the whole random state.
        "seed": seed,
    }


def restore(module: nn.Module, optimiser: torch.optim.Optimizer, state: State, seed: int) -> tuple[EpochReport, ...]:
    """Put module and optimiser where they stood, and return the reports of the epochs before.

    Raises:
        WeightsError: the state is of another seed or network.
    """
    where = f"training state after epoch {state['epoch']}"
    if state["seed"] != seed:
        raise WeightsError(f"it is of seed {state['seed']}, not {seed}", where=where, right="go on with its seed")
    try:
        module.load_state_dict(state["weights"])
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"does not fit ({error})", where=where, right="go on with the same network") from error
    return tuple(EpochReport.of(report) for report in state["history"])
