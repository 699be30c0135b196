"""Random numbers that depend on (seed, node, chains of a node, iteration) and on nothing else.

No generator's state is kept: every draw seeds its own from a hash of what it is for. So a run that is interrupted,
moved or batched otherwise draws the same numbers, and there is nothing to save.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raygen.hmc.settings import check_superchains


@dataclass(frozen=True)
class Noise:
    """The randomness of one step of N chains.

    Attributes:
        momentum: standard normal, shaped as the position.
        acceptance: uniform in [0, 1), shape (N,).
        jitter: uniform in [0, 1), shape (N,).
    """

    momentum: Tensor
    acceptance: Tensor
    jitter: Tensor


@dataclass(frozen=True)
class Streams:
    """One stream of random numbers a node, its chains side by side in the batch.

    Attributes:
        keys: what names each node's stream; equal keys draw equal numbers.
        chains: chains of each node.
        device: where the numbers are drawn; CPU and CUDA draw different ones.
        dtype: of the numbers.
    """

    keys: tuple[str, ...]
    chains: int
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (an immutable value)
    dtype: torch.dtype = torch.float32

    def start(self, shape: tuple[int, ...], superchains: int | None = None) -> Tensor:
        """Return standard normal starting positions, shape (nodes * chains, *shape).

        Args:
            shape: of one position.
            superchains: groups of each node's chains, side by side, that share a start, as nested R-hat wants it; a
                divisor of the chains. Where not given, each chain has its own.
        """
        starts = self._draw("start", 0, lambda generator: self._normal(shape, generator))
        if superchains is None:
            return starts
        together = self.chains // check_superchains(superchains, self.chains)
        return starts[::together].repeat_interleave(together, 0)

    def noise(self, iteration: int, shape: tuple[int, ...]) -> Noise:
        """Return the noise of one iteration for positions of shape (nodes * chains, *shape)."""
        uniform = self._draw("uniform", iteration, self._uniform)
        momentum = self._draw("momentum", iteration, lambda generator: self._normal(shape, generator))
        return Noise(momentum, acceptance=uniform[:, 0], jitter=uniform[:, 1])

    def selection(self, iteration: int) -> Tensor:
        """Return a uniform number in [0, 1) for each node: of the drawing anew after an iteration, shape (nodes,)."""
        return self._draw("selection", iteration, lambda generator: self._uniform(generator)[:1, 0])

    def _normal(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn((self.chains, *shape), generator=generator, device=self.device, dtype=self.dtype)

    def _uniform(self, generator: torch.Generator) -> Tensor:
        return torch.rand((self.chains, 2), generator=generator, device=self.device, dtype=self.dtype)

    def _draw(self, purpose: str, iteration: int, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        generator = torch.Generator(device=self.device)
        rows = [draw(generator.manual_seed(_seed(key, purpose, iteration))) for key in self.keys]
        return torch.cat(rows) if len(rows) > 1 else rows[0]


def _seed(key: str, purpose: str, iteration: int) -> int:
    digest = hashlib.blake2b(f"{key}|{purpose}|{iteration}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # torch takes a signed 64-bit seed
