"""log Z of a unit's nodes: annealed importance sampling with the kernel and the tilts of its chains."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from raygen.errors import SettingsError
from raygen.hmc import (
    Annealing,
    Kernel,
    Ladder,
    LogNormaliser,
    Noise,
    Pilot,
    ScoreFunction,
    Streams,
    Tensors,
    Weighing,
    find_ladder,
    rebuild,
    to_tensors,
    under,
    weigh,
    within,
)

OnState = Callable[[Callable[[], dict[str, Tensor]]], None]
"""Called between two trajectories with what returns the state as tensors by name: whoever needs it asks for it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogZ:
    """What is known of one node's log Z = log E_q[exp(b f)]; NaN where it could not be found.

    Attributes:
        value: the estimate; too low by half the squared error on average. Not to be trusted where the error is above
            0.5 or so.
        error: its standard error.
        ess: effective sample size of its weights, 0 to the number of chains.
        gradients: spent on it by each chain, those that find the tilts included.
    """

    value: float
    error: float
    ess: float
    gradients: int


def estimate_log_z(
    kernel: Kernel,
    score: ScoreFunction,
    streams: Streams,
    tilt: Tensor,
    shape: tuple[int, ...],
    *,
    rungs: int | None,
    on_fraction: Callable[[float], None],
    on_state: OnState | None = None,
    saved: Tensors | None = None,
) -> list[LogZ]:
    """Estimate log Z of each node, by as many chains as sample it, which begin anew from the reference.

    Args:
        kernel: what moves the chains; adjusted. Step sizes are found anew for each tilt on the way.
        score: f of each chain.
        streams: of the unit.
        tilt: b of each node, shape (nodes,).
        shape: of one position.
        rungs: tilts on the way; None for as many as it takes.
        on_fraction: called with the fraction of the weighted chains' trajectories that are begun.
        on_state: called after each rung with what returns all that is known so far, as tensors by name.
        saved: such tensors, to go on from; empty at the beginning.

    Raises:
        StoreError: if the saved tensors are of something else.
    """
    saved = saved or {}
    try:
        ladder = _ladder(Annealing(rungs=rungs), kernel, score, streams, tilt, shape, on_state, saved)
    except SettingsError as error:  # a tilt that is not finite or cannot be reached: the samples are worth keeping
        log.warning("no log Z of %s: %s", ", ".join(streams.keys), error)
        return [LogZ(math.nan, math.nan, math.nan, 0) for _ in tilt]
    moves = ladder.tilt.shape[1] - 2
    counted = _Counted(streams.keys, streams.chains, streams.device, streams.dtype,
                       on_move=lambda move: on_fraction((move + 1) / moves))  # fmt: skip

    def on_rung(state: Weighing) -> None:
        if on_state is not None:
            on_state(lambda: under("ladder", to_tensors(ladder)) | under("weighing", to_tensors(state)))

    weighing = within(saved, "weighing")
    start = rebuild(Weighing, weighing, streams.device) if weighing else None
    return _by_node(weigh(kernel, score, counted, ladder, shape, start=start, on_rung=on_rung))


def _ladder(
    plan: Annealing, kernel: Kernel, score: ScoreFunction, streams: Streams, tilt: Tensor, shape: tuple[int, ...],
    on_state: OnState | None, saved: Tensors,
) -> Ladder:  # fmt: skip
    """Return the ladder that was saved, or find it, going on with the pilot that was saved."""
    if ladder := within(saved, "ladder"):
        return rebuild(Ladder, ladder, streams.device)

    def on_rung(state: Pilot) -> None:
        if on_state is not None:
            on_state(lambda: under("pilot", to_tensors(state)))

    pilot = within(saved, "pilot")
    start = rebuild(Pilot, pilot, streams.device) if pilot else None
    return find_ladder(plan, kernel, score, streams, tilt, shape, start=start, on_rung=on_rung)


def _by_node(found: LogNormaliser) -> list[LogZ]:
    gradients = found.gradients + found.ladder.gradients
    columns = (found.log_z.tolist(), found.standard_error.tolist(), found.ess.tolist())
    return [LogZ(*values, gradients) for values in zip(*columns, strict=True)]


@dataclass(frozen=True)
class _Counted(Streams):
    """Streams that tell which move is made next."""

    on_move: Callable[[int], None] = lambda _: None

    @override
    def noise(self, iteration: int, shape: tuple[int, ...]) -> Noise:
        self.on_move(iteration)
        return super().noise(iteration, shape)
