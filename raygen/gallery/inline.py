"""A run's nodes as a piece of HTML that needs no other file: what a notebook shows."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable

import pyarrow as pa

from raygen.gallery.evidence import Entry, read_nodes
from raygen.gallery.pictures import tile

_CARD = "display:inline-block;margin:4px;text-align:center;vertical-align:top;font:12px sans-serif"


def fragment(tables: Iterable[pa.Table], *, most: int = 48) -> str:
    """Return tiles of nodes, each with its name, its mean score and what to know of it.

    Args:
        tables: samples, as of ``Run.layers``.
        most: nodes that are shown; how many more there are is said below.
    """
    cards: list[str] = []
    more = 0
    for table in tables:
        for evidence, images, _ in read_nodes(table):
            if len(cards) == most:
                more += 1
                continue
            picture = tile(images, side=96)
            source = base64.b64encode(picture.png).decode()
            crisp = ";image-rendering:pixelated" if picture.crisp else ""
            name, told = (html.escape(text) for text in (evidence.entry.label, remark(evidence.entry)))
            cards.append(
                f'<figure style="{_CARD}"><img alt="{name}" width="{picture.width}" height="{picture.height}" '
                f'style="display:block{crisp}" src="data:image/png;base64,{source}"><figcaption>{name}<br>{told}'
                f"</figcaption></figure>"
            )
    below = f"<p>and {more:,} more nodes</p>" if more else ""
    return f"<div>{''.join(cards)}{below}</div>"


def remark(entry: Entry) -> str:
    """Return a node's mean score, and in a few words what its images are."""
    if entry.dead is not None:
        return "dead: not sampled"
    converged = "converged" if entry.converged else "not converged"
    return f"score {entry.score:.3g}, {converged if entry.mode_steps is None else 'modes, not samples'}"
