"""What stands in a list of nodes, item by item, before it is looked for in a network."""

from __future__ import annotations

import re
from dataclasses import dataclass

from raygen.text import for_terminal

_SPACES = re.compile(r"\s+")

_SHOWN = 80
"""Characters of an item that a message shows."""


@dataclass(frozen=True, slots=True)
class Name:
    """A name in a list: ``quoted`` if it stood in quotation marks or braces, where a star is no pattern."""

    text: str
    quoted: bool = False


TOO_LARGE = 10**18
"""Stands for every number of more digits than a channel may have."""


@dataclass(frozen=True, slots=True)
class Channels:
    """Channels from ``first`` to ``last``, both included; whether the layer has them, or any, is not looked at."""

    first: int
    last: int


Weighted = tuple[tuple[int | Name, float], ...]
"""Channels or classes with their weights."""

Choice = Channels | Name | Weighted | None
"""Which channels: a range, a class, a weighted sum, or None for all."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What follows ``@``; ``position`` is (row, column)."""

    position: tuple[int, int] | None = None
    mean: bool = False
    after: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a list.

    Attributes:
        layer: its name.
        choice: which of its channels.
        ending: the position on the map and the like.
        text: what the user wrote, from the layer's name on, for messages.
        alone: whether the layer's name stands alone, without a colon.
        continues: whether the layer is that of the item before, which a comma goes on with.
    """

    layer: Name
    choice: Choice
    ending: Ending
    text: str
    alone: bool = False
    continues: bool = False


def fold(name: str) -> str:
    """Return a class name without what users need not heed: case, underscores for spaces, more spaces than one."""
    return " ".join(name.replace("_", " ").split()).casefold()


def quote(text: str) -> str:
    """Return what a user wrote for a message: what cannot be printed is escaped, what is long is cut short."""
    short = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return for_terminal(_SPACES.sub(" ", short))
