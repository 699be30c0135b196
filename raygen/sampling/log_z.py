"""log Z of a unit's nodes: annealed importance sampling with the kernel and the tilts of its chains."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from raygen.hmc import (
    Annealing,
    Kernel,
    Ladder,
    Pilot,
    ScoreFunction,
    Streams,
    Weighing,
    begin_pilot,
    begin_weighing,
    climb,
    estimate,
    make_ladder,
    weigh_rung,
)


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


@dataclass(frozen=True)
class LogZState:
    """How far an estimate is: first a pilot looks for a ladder of tilts, then other chains are weighted on it.

    Attributes:
        pilot: until its ladder is known.
        ladder: from then on.
        weighing: the weighted chains, from their first rung on.
    """

    pilot: Pilot | None = None
    ladder: Ladder | None = None
    weighing: Weighing | None = None


class LogZEstimator:
    """Estimates log Z of nodes, by as many chains as sample them, which begin again from the reference.

    It holds only constants: states go in and come out. Step sizes are found for each tilt on the way.

    Args:
        kernel: what moves the chains; adjusted.
        score: f of each chain.
        streams: of the nodes.
        tilt: b of each node, shape (nodes,).
        shape: of one position.
        rungs: tilts on the way; None for as many as it takes.
    """

    def __init__(
        self,
        kernel: Kernel,
        score: ScoreFunction,
        streams: Streams,
        tilt: Tensor,
        shape: tuple[int, ...],
        *,
        rungs: int | None,
    ) -> None:
        self._kernel = kernel
        self._score = score
        self._streams = streams
        self._tilt = tilt
        self._shape = shape
        self._plan = Annealing(rungs=rungs)

    def step(self, state: LogZState) -> LogZState:
        """Return the state one rung further, of the pilot or of the weighted chains.

        Raises:
            SettingsError: if a tilt is not finite or out of reach.
        """
        if state.ladder is None:
            pilot = state.pilot or begin_pilot(self._kernel, self._score, self._streams, self._tilt, self._shape)
            pilot = climb(self._kernel, self._score, self._streams, self._tilt, pilot)
            if pilot.arrived(self._tilt):
                return LogZState(ladder=make_ladder(self._plan, self._kernel, pilot))
            return LogZState(pilot)
        weighing = state.weighing or begin_weighing(self._kernel, self._score, self._streams, self._shape)
        return replace(state, weighing=weigh_rung(self._kernel, self._score, self._streams, state.ladder, weighing))

    def finished(self, state: LogZState) -> bool:
        """Whether the weighted chains are at the top of their ladder."""
        return state.ladder is not None and state.weighing is not None and state.weighing.rung == state.ladder.rungs

    def fraction(self, state: LogZState) -> float | None:
        """Return the fraction of the weighted chains' trajectories made; None where the last step made none of them."""
        if state.ladder is None or state.weighing is None or state.weighing.rung == state.ladder.rungs:
            return None
        return state.weighing.rung / (state.ladder.rungs - 1)

    def result(self, state: LogZState) -> tuple[LogZ, ...]:
        """Return the estimate of each node, from a state that is finished."""
        assert state.ladder is not None and state.weighing is not None
        found = estimate(self._kernel, state.ladder, state.weighing)
        gradients = found.gradients + state.ladder.gradients
        columns = (found.log_z.tolist(), found.standard_error.tolist(), found.ess.tolist())
        return tuple(LogZ(*values, gradients) for values in zip(*columns, strict=True))
