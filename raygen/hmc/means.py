"""The mean of a chain's positions: the centre of the mode that it is in, without the noise of a draw.

Under the target p(z) ~ exp(b f(z) - |z|^2 / 2) the mean position is also the mean pull b grad f(z), by Stein's identity
E[v] = 0 for v = z - b grad f(z). So the mean of the positions less c times the mean of v estimates the same for every
c. Where f is linear the pull is the same everywhere, and c = 1 leaves no noise at all. Where the tilt is sharp the pull
is noisier than the positions. A chain that has not converged breaks the identity: its mean of v is a bias. The c
that is taken has the least expected squared error of both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raygen.hmc.state import ChainState, along_rows, row_dot


@dataclass(frozen=True)
class TailMean:
    """The mean of N chains' positions over the last part of their trajectories, in bounded memory.

    Positions and gradients are summed in windows, each twice as long as the one before it. The last whole window and
    the one that is filling are kept. Together they hold between the last half and the last three quarters of all
    trajectories, so what a chain was before it found its mode is forgotten.

    Attributes:
        made: trajectories taken in.
        earlier: sums over the last whole window.
        current: sums over the window that is filling.
        weight: c of each chain, (N,), found by the last two whole windows; 0 before there are two.
    """

    made: int
    earlier: Sums
    current: Sums
    weight: Tensor

    @classmethod
    def begin(cls, chains: ChainState) -> TailMean:
        """Return the mean of nothing yet, for chains of this shape."""
        nothing = Sums(torch.zeros_like(chains.position), torch.zeros_like(chains.gradient))
        return cls(0, nothing, nothing, torch.zeros_like(chains.score))

    def add(self, chains: ChainState, tilt: Tensor) -> TailMean:
        """Take in where the chains are after one more trajectory at ``tilt`` (N,)."""
        made, weight = self.made + 1, self.weight
        if made & (made - 1):  # no power of two: the window goes on
            return TailMean(made, self.earlier, self.current.add(chains), weight)
        if made > 3:  # two windows are whole: of made / 4 trajectories and of made / 2
            weight = _weight(self.earlier.over(made // 4), self.current.over(made // 2), tilt)
        return TailMean(made, self.current, Sums(chains.position, chains.gradient), weight)

    def mean(self, tilt: Tensor) -> Tensor:
        """Return the mean position at ``tilt`` (N,), shaped as the position; at least one was taken in."""
        begun = 1 << (self.made.bit_length() - 1)
        count = self.made + 1 - begun + begun // 2
        found = Sums(self.earlier.position + self.current.position, self.earlier.gradient + self.current.gradient)
        means, weight = found.over(count), along_rows(self.weight, found.position)
        return (1 - weight) * means.position + weight * along_rows(tilt, found.position) * means.gradient

    def rows(self, chosen: Tensor) -> TailMean:
        """Return the mean of the chains whose numbers are ``chosen``, alone."""
        return TailMean(self.made, self.earlier.rows(chosen), self.current.rows(chosen), self.weight[chosen])


@dataclass(frozen=True)
class Sums:
    """Sums over trajectories, shaped as the position."""

    position: Tensor
    gradient: Tensor

    def add(self, chains: ChainState) -> Sums:
        """Return the sums with one trajectory more."""
        return Sums(self.position + chains.position, self.gradient + chains.gradient)

    def over(self, count: int) -> Sums:
        """Return the means of ``count`` trajectories."""
        return Sums(self.position / count, self.gradient / count)

    def rows(self, chosen: Tensor) -> Sums:
        """Return the sums of the chains whose numbers are ``chosen``, alone."""
        return Sums(self.position[chosen], self.gradient[chosen])


def _weight(earlier: Sums, later: Sums, tilt: Tensor) -> Tensor:
    """Return the c in 0..1 of the least expected squared error, (N,).

    The error of the mean less c times the variate's is noise, whose size the difference of the two windows shows, and
    c times the variate's bias, which both windows have in common.

    Args:
        earlier: means of a window.
        later: means of the next one, which is twice as long.
        tilt: b of each chain, (N,).
    """
    wide = along_rows(tilt, later.position)
    first, second = (means.position - wide * means.gradient for means in (earlier, later))
    change = second - first
    # Of independent trajectories, n and 2 n: the mean of all has 2/9 of the variance of the difference.
    noise = 2 / 9 * row_dot(change, change)
    # What noise alone would show: two standard deviations of the product of independent directions.
    chance = 2 * (row_dot(first, first) * row_dot(second, second) / first[0].numel()).sqrt()
    bias = (row_dot(first, second) - chance).clamp(min=0)
    shared = 2 / 9 * row_dot(later.position - earlier.position, change)
    error = noise + bias
    return torch.where(error > 0, shared / error, torch.ones_like(error)).clamp(0, 1)
