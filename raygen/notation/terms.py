"""Weighted sums of channels, as nodes write them: ``[9-950]``, ``[0.5*12+7]``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

Terms = tuple[tuple[int, float], ...]
"""Channels with their weights."""

CHANNEL = r"[0-9]{1,18}"
"""A channel, row or column. No layer has more, and Python refuses to read numbers of thousands of digits."""

WEIGHT = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"

_TERM = re.compile(rf"([+-]?)(?:({WEIGHT})\*)?({CHANNEL})")


def normal_terms(terms: Iterable[tuple[int, float]]) -> Terms:
    """Return the same sum with each channel once: those added before those taken away, each in order.

    Channels whose weight is 0 are left out.
    """
    total: dict[int, float] = {}
    for channel, weight in terms:
        total[channel] = total.get(channel, 0.0) + weight
    kept = [(channel, weight) for channel, weight in total.items() if weight != 0]
    return tuple(sorted(kept, key=lambda term: (term[1] < 0, term[0])))


def format_terms(terms: Terms) -> str:
    """Write ``terms``, at least one, in brackets; a weight of 1 is left out, others are exact."""
    parts: list[str] = []
    for channel, weight in terms:
        sign = "-" if weight < 0 else "+" if parts else ""
        parts.append(f"{sign}{_factor(weight, '*')}{channel}")
    return f"[{''.join(parts)}]"


def label_terms(terms: Terms, names: Sequence[str]) -> str:
    """Write ``terms`` for people, with the channels' names."""
    text = ""
    for channel, weight in terms:
        sign = (" - " if text else "-") if weight < 0 else " + " if text else ""
        text += f"{sign}{_factor(weight, ' ')}{names[channel]}"
    return text


def read_terms(text: str) -> Terms | None:
    """Return the terms that :func:`format_terms` wrote; None where ``text`` is something else."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    terms: list[tuple[int, float]] = []
    begin = 1
    while begin < len(text) - 1:
        found = _TERM.match(text, begin)
        if found is None or (not found[1] and terms):
            return None
        terms.append((int(found[3]), float(found[2] or 1) * (-1 if found[1] == "-" else 1)))
        begin = found.end()
    finite = all(math.isfinite(weight) for _, weight in terms)
    return tuple(terms) if terms and finite else None


def _factor(weight: float, times: str) -> str:
    size = abs(weight)
    short = f"{size:g}"
    return "" if size == 1 else (short if float(short) == size else repr(size)) + times
