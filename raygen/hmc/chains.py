"""Chains after warm-up: nothing adapts any more, every state is recorded in a few numbers, some are kept as draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from raygen.hmc.kernel import Kernel
from raygen.hmc.state import ChainState, Parameters, ScoreFunction, StepInfo
from raygen.hmc.streams import Noise, Streams

PROJECTIONS = 4
"""Fixed random directions that diagnostics watch beside the score and the energy."""


@dataclass(frozen=True)
class Trace:
    """The record of N chains over T iterations.

    Attributes:
        score: f, shape (T, N).
        energy: U + |p|^2/2 less the constants, just after the momentum was drawn, shape (T, N), float64: for E-BFMI.
        projections: of the position on fixed random directions, shape (T, N, P).
        acceptance: probabilities, shape (T, N).
        diverged: shape (T, N).
        potential: U of each state less the constants, shape (T, N), float64; None where it was not recorded.
    """

    score: Tensor
    energy: Tensor
    projections: Tensor
    acceptance: Tensor
    diverged: Tensor
    potential: Tensor | None = None

    def __len__(self) -> int:
        """Return T."""
        return len(self.score)

    def rows(self, chosen: Tensor) -> Trace:
        """Return the record of the chains whose numbers are ``chosen``, alone."""
        return self._each(lambda record: record[:, chosen.to(record.device)])

    def since(self, first: int) -> Trace:
        """Return the record without its first ``first`` iterations."""
        return self._each(lambda record: record[first:])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Trace:
        values = (getattr(self, field.name) for field in fields(self))
        changed: list[Any] = [None if value is None else change(value) for value in values]
        return Trace(*changed)


class Recorder:
    """Records chains step by step.

    Args:
        trace: the record so far, to be gone on with.
    """

    def __init__(self, trace: Trace | None = None) -> None:
        self._trace = trace
        self._steps: list[tuple[Tensor, ...]] = []
        self._directions: Tensor | None = None
        self._potential: Tensor | None = None

    def note(self, before: ChainState, after: ChainState, tilt: Tensor, noise: Noise, info: StepInfo) -> None:
        """Take in one step; ``before`` is the last one's ``after``."""
        if self._directions is None or self._potential is None:
            self._directions, self._potential = _directions(before.position), potential(before, tilt)
        kinetic = 0.5 * noise.momentum.flatten(1).square().sum(1, dtype=torch.float64)
        now = potential(after, tilt)
        projected = after.position.flatten(1) @ self._directions
        self._steps.append((after.score, self._potential + kinetic, projected, info.acceptance, info.diverged, now))
        self._potential = now

    @property
    def trace(self) -> Trace:
        """The record of all steps so far, of which there is at least one."""
        if self._steps:
            columns = [torch.stack(column) for column in zip(*self._steps, strict=True)]
            if self._trace is not None:
                known = (getattr(self._trace, field.name) for field in fields(Trace))
                columns = [torch.cat(pair) for pair in zip(known, columns, strict=True)]
            self._trace, self._steps = Trace(*columns), []
        assert self._trace is not None
        return self._trace


def potential(state: ChainState, tilt: Tensor) -> Tensor:
    """Return U(z) = -b f(z) + |z|^2 / 2 of each chain, shape (N,), float64."""
    square = state.position.flatten(1).square().sum(1, dtype=torch.float64)
    return 0.5 * square - tilt.double() * state.score.double()


def draw(
    kernel: Kernel,
    score: ScoreFunction,
    state: ChainState,
    parameters: Parameters,
    streams: Streams,
    *,
    first: int,
    iterations: int,
    on_step: Callable[[int, ChainState, StepInfo], None],
) -> tuple[ChainState, Trace]:
    """Make ``iterations`` trajectories with frozen parameters.

    Args:
        kernel: what moves the chains.
        score: f of each chain.
        state: the chains after warm-up.
        parameters: frozen step sizes and tilts.
        streams: of random numbers.
        first: number of the first iteration; warm-up used those before it.
        iterations: how many.
        on_step: called after each with the count of those made, the state, and what happened.
    """
    recorder = Recorder()
    for count in range(1, iterations + 1):
        noise = streams.noise(first + count - 1, state.position.shape[1:])
        before = state
        state, info = kernel.step(before, parameters, score, noise)
        recorder.note(before, state, parameters.tilt, noise, info)
        on_step(count, state, info)
    return state, recorder.trace


def _directions(position: Tensor) -> Tensor:
    """Return unit vectors, shape (D, P), the same for every run."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn((position[0].numel(), PROJECTIONS), generator=generator, dtype=torch.float64)
    units: Tensor = vectors / vectors.norm(dim=0)
    return units.to(position)
