"""Ladders of tilts from the reference to a target, for annealed importance sampling: found by a pilot, then fixed.

The pilot's chains are others than those that are weighted later. So tilts and step sizes are constants to the latter,
every rung's kernel leaves its own distribution invariant, and the mean weight is an unbiased estimate of Z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from raygen.errors import SettingsError
from raygen.hmc.kernel import Kernel
from raygen.hmc.state import ChainState, Parameters, ScoreFunction
from raygen.hmc.streams import Streams

_PILOT_KEPT = 0.5
"""Effective sample size that a rung of the pilot keeps. Few and far rungs are enough: the ladder interpolates them."""

_PILOT_MOVES = 8
"""Steps of the pilot on a rung, in which its chains catch up and its step size settles."""

_GAIN = 0.5
"""Change of the log step size per unit of acceptance; constant, since the target moves from rung to rung."""

_SHORTEST = 1e-6
"""Length of a rung that costs nothing, as of a constant score: positions along a ladder must differ."""


_ACCEPTANCE = 0.8
"""Rate that the pilot's step sizes are adapted to."""

_MOST_RUNGS = 10_000
"""Rungs of the pilot after which a tilt counts as out of reach."""


@dataclass(frozen=True)
class Annealing:
    """How to go from the reference to the tilt.

    Attributes:
        kept: fraction of the effective sample size that each rung of the weighted run keeps, in 0..1.
        rungs: of every node's ladder; where not given, as many as ``kept`` takes.
    """

    kept: float = 0.99
    rungs: int | None = None

    def __post_init__(self) -> None:
        for name, value, fine, right in (
            ("kept", self.kept, 0 < self.kept < 1, "give a fraction above 0 and below 1"),
            ("rungs", self.rungs, self.rungs is None or self.rungs >= 1, "give at least 1"),
        ):
            if not fine:
                raise SettingsError(f"{name} = {value} is not possible", where="annealing", right=right)


@dataclass(frozen=True)
class Ladder:
    """Tilts to be passed one after the other, and the step size at each.

    Attributes:
        tilt: shape (nodes, T + 1), float64, from 0 to each node's b; never falls, and ends with repetitions of b where
            another node's ladder is longer.
        step_size: shape (nodes, T + 1), float64; of the moves at the tilt of the same index.
        gradients: of one chain of the pilot that found it; 0 for a given ladder.
    """

    tilt: Tensor
    step_size: Tensor
    gradients: int = 0

    @property
    def rungs(self) -> int:
        """T."""
        return self.tilt.shape[1] - 1


@dataclass(frozen=True)
class Pilot:
    """Where the pilot's chains are; enough to continue from.

    Attributes:
        chains: of the pilot, on the last of the rungs.
        lengths, tilts, log_steps: of the K rungs so far: the path's length, b, and the step size's log; (nodes, K).
    """

    chains: ChainState
    lengths: Tensor
    tilts: Tensor
    log_steps: Tensor

    def arrived(self, tilt: Tensor) -> bool:
        """Whether every node's chains have come to its tilt, shape (nodes,)."""
        return not bool((self.tilts[:, -1] < tilt.double()).any())


def find_ladder(
    plan: Annealing, kernel: Kernel, score: ScoreFunction, streams: Streams, tilt: Tensor, shape: tuple[int, ...]
) -> Ladder:
    """Find each node's ladder and step sizes with pilot chains.

    A rung of the pilot goes as far as half of the effective sample size of its chains' next weights allows, estimated
    before each move. The length of a rung, the root of the log of what it costs, adds up along the path; the
    ladder's rungs divide that length evenly, so each costs the same. A node's ladder does not depend on the others.

    Args:
        plan: how fine.
        kernel: what moves the chains.
        score: f, of nodes * chains rows.
        streams: those of the weighted run; the pilot derives its own.
        tilt: b of each node, shape (nodes,).
        shape: of one position.

    Raises:
        SettingsError: if a tilt is not above 0 and finite, or out of reach.
    """
    pilot = begin_pilot(kernel, score, streams, tilt, shape)
    while not pilot.arrived(tilt):
        pilot = climb(kernel, score, streams, tilt, pilot)
    return make_ladder(plan, kernel, pilot)


def begin_pilot(kernel: Kernel, score: ScoreFunction, streams: Streams, tilt: Tensor, shape: tuple[int, ...]) -> Pilot:
    """Return the pilot at tilt 0, for the arguments of :func:`find_ladder`.

    Raises:
        SettingsError: if a tilt is not above 0 and finite.
    """
    zero = torch.zeros_like(_checked(tilt))
    # The search starts at the largest step: too long a step shrinks at once, too short a one grows slowly.
    first = torch.full_like(zero, math.log(_largest_step(kernel)))
    chains = at_rest(score, _own(streams).start(shape))
    chains, log_step = _settle(kernel, score, streams, chains, zero, first, 0)
    return Pilot(chains, zero[:, None], zero[:, None], log_step[:, None])


def climb(kernel: Kernel, score: ScoreFunction, streams: Streams, tilt: Tensor, pilot: Pilot) -> Pilot:
    """Return the pilot one rung further, for the arguments of :func:`find_ladder`.

    Raises:
        SettingsError: if it has made so many rungs that the tilt is out of reach.
    """
    end, now, rung = tilt.double(), pilot.tilts[:, -1], pilot.tilts.shape[1]
    if rung > _MOST_RUNGS:
        node = int((now < end).nonzero()[0])
        raise SettingsError(
            f"{_MOST_RUNGS} rungs brought node {node} from tilt 0 to {now[node]:g} of {end[node]:g}",
            where="annealing", right="give a smaller tilt, or a kernel of more steps")  # fmt: skip
    stride, cost = _stride(pilot.chains.score.double().view(len(end), -1), end - now)
    now = torch.where(stride < end - now, now + stride, end)
    length = pilot.lengths[:, -1] + cost.clamp(min=_SHORTEST)
    chains, log_step = _settle(kernel, score, streams, pilot.chains, now, pilot.log_steps[:, -1], rung)
    pairs = ((pilot.lengths, length), (pilot.tilts, now), (pilot.log_steps, log_step))
    return Pilot(chains, *(torch.cat([columns, column[:, None]], dim=1) for columns, column in pairs))


def make_ladder(plan: Annealing, kernel: Kernel, pilot: Pilot) -> Ladder:
    """Return the ladder that divides the path of a pilot that has arrived evenly, node by node."""
    finer = math.sqrt(math.log(_PILOT_KEPT) / math.log(plan.kept))
    tilts = pilot.tilts
    arrived = (tilts < tilts[:, -1:]).sum(1)  # the first knot at the target
    rows: list[tuple[Tensor, Tensor]] = []
    for node, last in enumerate(arrived.tolist()):
        knots = (pilot.lengths, tilts, pilot.log_steps)
        path, *values = (column[node, : last + 1].cpu().numpy() for column in knots)
        rungs = plan.rungs or max(1, math.ceil(finer * float(path[-1])))
        even = np.linspace(0, path[-1], rungs + 1)
        tilt, log_step = (torch.from_numpy(np.interp(even, path, value)) for value in values)
        rows.append((tilt, log_step.exp()))
    longest = max(len(tilt) for tilt, _ in rows)
    tilt, step_size = (torch.stack([_pad(row[part], longest) for row in rows]).to(tilts.device) for part in (0, 1))
    return Ladder(tilt, step_size, tilts.shape[1] * _PILOT_MOVES * kernel.steps)


def at_rest(score: ScoreFunction, position: Tensor) -> ChainState:
    """Return chains at ``position``, finite or not: a chain without a finite score has no weight and never moves."""
    return ChainState(position, *score.value_and_gradient(position))


def _checked(tilt: Tensor) -> Tensor:
    fine = tilt.isfinite() & (tilt > 0)
    if not bool(fine.all()):
        node = int((~fine).nonzero()[0])
        raise SettingsError(f"tilt = {tilt[node].item():g} of node {node}", where="tilt",
                            right="give a finite number above 0")  # fmt: skip
    return tilt.double()


def _largest_step(kernel: Kernel) -> float:
    # A rotation by more than a right angle turns back; the kernel divides its step by the root of the mass.
    return math.pi / 2 / kernel.steps * math.sqrt(kernel.mass)


def _own(streams: Streams) -> Streams:
    """Return the pilot's streams, other than those of the weighted run."""
    return replace(streams, keys=tuple(f"{key}/log Z/pilot" for key in streams.keys))


def _settle(
    kernel: Kernel,
    score: ScoreFunction,
    streams: Streams,
    chains: ChainState,
    tilt: Tensor,
    log_step: Tensor,
    rung: int,
) -> tuple[ChainState, Tensor]:
    """Move the pilot on one rung while its step sizes follow; return both."""
    nodes, like, own = len(tilt), chains.score, _own(streams)
    tilts = tilt.repeat_interleave(own.chains).to(like)
    alive = like.isfinite().view(nodes, -1)
    for move in range(_PILOT_MOVES):
        steps = log_step.exp().repeat_interleave(own.chains).to(like)
        noise = own.noise(rung * _PILOT_MOVES + move, chains.position.shape[1:])
        chains, info = kernel.step(chains, Parameters(steps, tilts), score, noise)
        # A chain without a finite score accepts nothing, whatever the step size.
        accepted = (info.acceptance.double().view(nodes, -1) * alive).sum(1) / alive.sum(1).clamp(min=1)
        log_step = (log_step + _GAIN * (accepted - _ACCEPTANCE)).clamp(max=math.log(_largest_step(kernel)))
    return chains, log_step


def _stride(scores: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far each node's next rung goes, at most ``room`` (nodes,), and its length in rungs of the pilot."""
    low, high = torch.zeros_like(room), room
    for _ in range(60):
        middle = 0.5 * (low + high)
        fine = kept_fraction(scores, middle) >= _PILOT_KEPT
        low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
    stride = torch.where(kept_fraction(scores, room) >= _PILOT_KEPT, room, low)
    # Of a normal score with deviation s, a rung d keeps exp(-s^2 d^2): its length s d is the root of that logarithm.
    return stride, (kept_fraction(scores, stride).log() / math.log(_PILOT_KEPT)).clamp(min=0).sqrt()


def kept_fraction(scores: Tensor, rung: Tensor) -> Tensor:
    """Return the effective sample size of the weights exp(rung * score), over the number of chains with a score.

    Args:
        scores: shape (nodes, chains), float64.
        rung: difference of tilts, shape (nodes,), above 0.

    Returns:
        Shape (nodes,), above 0 to 1; 1 where no chain has a finite score.
    """
    finite = scores.isfinite()
    log_weight = torch.where(finite, rung[:, None] * torch.where(finite, scores, 0), -math.inf)
    log_ess = 2 * log_weight.logsumexp(1) - (2 * log_weight).logsumexp(1)
    return (log_ess - finite.sum(1).log()).exp().nan_to_num(nan=1.0)


def _pad(row: Tensor, length: int) -> Tensor:
    return torch.cat([row, row[-1:].expand(length - len(row))])
