"""A node's scores by draw, one line a chain: the coordinates of an SVG drawing that stretches with the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raygen.gallery.evidence import Chain

_WIDTH, _HEIGHT, _EDGE = 1000.0, 100.0, 4.0


@dataclass(frozen=True)
class Trace:
    """Lines in a frame of 1000 by 100: ``lines`` holds a chain's number and the points of its line."""

    lines: tuple[tuple[int, str], ...]
    scores: tuple[float, float]
    draws: tuple[int, int]


def trace(chains: Sequence[Chain]) -> Trace | None:
    """Return the drawing; None where no chain has two draws, or no score is finite."""
    scores = [score for chain in chains for score in chain.scores if math.isfinite(score)]
    draws = [draw for chain in chains for draw in chain.draws]
    if not scores or max(len(chain.draws) for chain in chains) < 2:
        return None
    low, high = min(scores), max(scores)
    first, last = min(draws), max(draws)

    def across(draw: int) -> float:
        return _WIDTH * (draw - first) / max(last - first, 1)

    def down(score: float) -> float:
        return _EDGE + (_HEIGHT - 2 * _EDGE) * ((high - score) / (high - low) if high > low else 0.5)

    lines = tuple(
        (chain.number, " ".join(f"{across(draw):.1f},{down(score):.1f}"
                                for draw, score in zip(chain.draws, chain.scores, strict=True) if math.isfinite(score)))
        for chain in chains
    )  # fmt: skip
    return Trace(lines, (low, high), (first, last))
