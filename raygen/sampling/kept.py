"""The draws that are kept of chains whose length is not known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from raygen.hmc import Tensors, to_tensors, under, within
from raygen.sampling.rows import Draw


class Kept:
    """Draws spread evenly over all trajectories so far, in bounded memory: never twice as many as are asked for.

    At first each ``thin``-th state is kept. Where there are twice as many as asked for, every second one goes, and from
    then on states are kept half as often.

    Args:
        wanted: draws of each chain in the end.
        thin: trajectories from one to the next, at first.
    """

    def __init__(self, wanted: int, thin: int) -> None:
        self._wanted = wanted
        self._every = thin
        self._draws: list[Draw] = []

    def wants(self, count: int) -> bool:
        """Whether the state after ``count`` trajectories is to be kept."""
        return count % self._every == 0

    def add(self, draw: Draw) -> None:
        """Keep a state that was wanted."""
        self._draws.append(draw)
        if len(self._draws) == 2 * self._wanted:
            self._draws = self._draws[1::2]
            self._every *= 2

    def rows(self, chosen: Tensor) -> list[Draw]:
        """Return as many draws as are wanted, or as there are, of the chains whose numbers are ``chosen``."""
        held = len(self._draws)
        count = min(held, self._wanted)
        return [self._draws[(index + 1) * held // count - 1].rows(chosen) for index in range(count)]

    def drop(self, staying: Tensor) -> None:
        """Go on with the chains whose numbers are ``staying``."""
        self._draws = [draw.rows(staying) for draw in self._draws]

    def save(self) -> dict[str, Tensor]:
        """Return the draws as tensors by name."""
        saved = {"every": torch.tensor(self._every)}
        for index, draw in enumerate(self._draws):
            sizes = torch.tensor([len(image) for image in draw.images])
            saved |= under(str(index), {"images": _bytes(draw.images), "sizes": sizes, **to_tensors(draw)})
        return saved

    def restore(self, saved: Tensors) -> None:
        """Take up what ``save`` returned.

        Raises:
            KeyError, TypeError: if something is missing.
        """
        self._every, self._draws = int(saved["every"]), []
        while part := within(saved, str(len(self._draws))):
            images = _split(part.pop("images").numpy().tobytes(), part.pop("sizes").tolist())
            self._draws.append(Draw(images, **part))


def _split(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    ends = [*accumulate(sizes)]
    return [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _bytes(images: Sequence[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(images)), dtype=torch.uint8)
