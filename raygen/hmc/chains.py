"""Chains after warm-up: nothing adapts any more, every state is recorded in a few numbers, some are kept as draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
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


@dataclass(frozen=True)
class Record:
    """The record of chains that still move: blocks of their trace, with the lengths of a binary counter.

    A block takes in its successor once that is as long. So a step copies each earlier one a few times in all, and there
    are few blocks, however long the chains are.
    """

    blocks: tuple[Trace, ...] = ()

    def __len__(self) -> int:
        """Return how many steps are recorded."""
        return sum(map(len, self.blocks))

    def add(self, before: ChainState, after: ChainState, tilt: Tensor, noise: Noise, info: StepInfo) -> Record:
        """Return the record with one more step; ``before`` is the last one's ``after``."""
        known = self.blocks[-1].potential if self.blocks else None
        begin = potential(before, tilt) if known is None else known[-1]
        kinetic = 0.5 * noise.momentum.flatten(1).square().sum(1, dtype=torch.float64)
        position = after.position.flatten(1)
        projected = position @ _directions(position.shape[1], position.dtype, position.device)
        step = (after.score, begin + kinetic, projected, info.acceptance, info.diverged, potential(after, tilt))
        blocks = (*self.blocks, Trace(*(column[None] for column in step)))
        while len(blocks) > 1 and len(blocks[-2]) <= len(blocks[-1]):
            blocks = (*blocks[:-2], _join(blocks[-2:]))
        return Record(blocks)

    def rows(self, chosen: Tensor) -> Record:
        """Return the record of the chains whose numbers are ``chosen``, alone."""
        return Record(tuple(block.rows(chosen) for block in self.blocks))

    @property
    def trace(self) -> Trace:
        """The record of all steps so far, of which there is at least one."""
        return _join(self.blocks)


def _join(blocks: Sequence[Trace]) -> Trace:
    columns = ((getattr(block, field.name) for block in blocks) for field in fields(Trace))
    return Trace(*(torch.cat([*column]) for column in columns))


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
    record = Record()
    for count in range(1, iterations + 1):
        noise = streams.noise(first + count - 1, state.position.shape[1:])
        before = state
        state, info = kernel.step(before, parameters, score, noise)
        record = record.add(before, state, parameters.tilt, noise, info)
        on_step(count, state, info)
    return state, record.trace


@lru_cache(maxsize=4)
def _directions(dimension: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return unit vectors, shape (D, P), the same for every run."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn((dimension, PROJECTIONS), generator=generator, dtype=torch.float64)
    units: Tensor = vectors / vectors.norm(dim=0)
    return units.to(device, dtype)
