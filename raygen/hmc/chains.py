"""Chains after warm-up: nothing adapts any more, every state is recorded in a few numbers, some are kept as draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raygen.hmc.kernel import Kernel
from raygen.hmc.state import ChainState, Parameters, ScoreFunction, StepInfo
from raygen.hmc.streams import Streams

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
    directions = _directions(state.position)
    records: list[tuple[Tensor, ...]] = []
    before = potential(state, parameters.tilt)
    for count in range(1, iterations + 1):
        noise = streams.noise(first + count - 1, state.position.shape[1:])
        kinetic = 0.5 * noise.momentum.flatten(1).square().sum(1, dtype=torch.float64)
        state, info = kernel.step(state, parameters, score, noise)
        after = potential(state, parameters.tilt)
        projected = state.position.flatten(1) @ directions
        records.append((state.score, before + kinetic, projected, info.acceptance, info.diverged, after))
        before = after
        on_step(count, state, info)
    return state, Trace(*(torch.stack(column) for column in zip(*records, strict=True)))


def _directions(position: Tensor) -> Tensor:
    """Return unit vectors, shape (D, P), the same for every run."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn((position[0].numel(), PROJECTIONS), generator=generator, dtype=torch.float64)
    units: Tensor = vectors / vectors.norm(dim=0)
    return units.to(position)
