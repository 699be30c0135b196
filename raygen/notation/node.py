"""One node of a network as a value, and as the text that stands for it in plans, rows and random streams."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from raygen.errors import NodeError
from raygen.notation.terms import CHANNEL, Terms, format_terms, normal_terms, read_terms

QUOTED = r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'"
"""A name in quotation marks. Inside them a backslash stands before a mark or a backslash, or begins ``\\u{e9}``."""

_PLAIN = re.compile(r"""(?!["'\[{])[^\s,:@*]+""")
_ESCAPED = re.compile(r"""\\(?:(["'\\])|u\{([0-9a-f]{1,6})\})""")
_WRITTEN = re.compile(
    rf"(?P<layer>{QUOTED}|[^\s,:@]+):(?P<channel>{CHANNEL}|\[[^\]]*\])"
    rf"(?:@(?P<row>{CHANNEL}),(?P<column>{CHANNEL}))?(?P<mean>@mean)?(?P<after>@relu)?",
    re.DOTALL,
)


@dataclass(frozen=True, order=True, slots=True)
class Node:
    """One node of a network: a channel of a layer, or a weighted sum of its channels.

    Written ``layer:channel`` or, for a sum, ``layer:[0.5*12+7]`` or ``layer:[9-950]``, then the position on the map,
    then ``@relu``: ``conv2:7``, ``conv2:7@3,4``, ``conv2:7@mean``, ``features.1:[3-5]@mean@relu``. The layer's name is
    quoted where it has to be, see :func:`write_name`. What ``str`` writes, :func:`read_node` and
    ``raygen.networks.parse_nodes`` read as an equal node.

    Attributes:
        layer: dotted name of the module.
        channel: from 0; of a sum its first.
        position: (row, column) on the layer's map; None for the centre, and for layers without a map.
        mean: whether the mean over the whole map is meant instead; of a map that holds the classes it always is where
            there is no position, and this stays False.
        after: of a layer that ends with a ReLU, whether its output is meant instead of its input.
        terms: channels with their weights, as :func:`sum_node` makes them; empty for a channel alone.
    """

    layer: str
    channel: int
    position: tuple[int, int] | None = None
    mean: bool = False
    after: bool = False
    terms: Terms = ()

    def __str__(self) -> str:
        channels = format_terms(self.terms) if self.terms else self.channel
        return f"{write_name(self.layer)}:{channels}{self.ending}"

    @property
    def ending(self) -> str:
        """Where on the map, and whether after the ReLU: ``@3,4``, ``@mean@relu``; mostly empty.

        Nodes with the same layer and ending may share a batch.
        """
        position = "@mean" if self.mean else "" if self.position is None else "@{},{}".format(*self.position)
        return position + ("@relu" if self.after else "")


def sum_node(
    layer: str,
    terms: Iterable[tuple[int, float]],
    *,
    position: tuple[int, int] | None = None,
    mean: bool = False,
    after: bool = False,
    where: str | None = None,
) -> Node:
    """Return the node of a weighted sum of channels, in one form however it is written.

    Args:
        layer: dotted name of the module.
        terms: channels with their weights.
        position: as in :class:`Node`.
        mean: likewise.
        after: likewise.
        where: what the user wrote, for the error.

    Raises:
        NodeError: if nothing is left of the sum, or its weights add up to more than a number can hold.
    """
    kept = normal_terms(terms)
    if not kept or not all(math.isfinite(weight) for _, weight in kept):
        what = "the weights add up to more than a number can hold" if kept else "the weighted sum is 0"
        where = f"nodes {write_name(layer)}" if where is None else where
        raise NodeError(what, where=where, right="give channels with weights, such as [3-5]")
    alone = len(kept) == 1 and kept[0][1] == 1
    return Node(layer, kept[0][0], position, mean, after, () if alone else kept)


def read_node(text: str) -> Node:
    """Return the node that ``str`` wrote; whether a network has it is not looked at.

    Raises:
        NodeError: if ``text`` is something else.
    """
    found = _WRITTEN.fullmatch(text)
    node = None if found is None else _node(found)
    if node is None or str(node) != text:
        raise NodeError("is no node as raygen writes it", where=f"node {text}", right="give one such as conv2:7@3,4")
    return node


def without_layer(text: str) -> str:
    """Return what the text of a node has behind the layer's name: ``7@3,4``, ``[3-5]@mean``."""
    # A layer's name may hold a colon, nothing behind it does.
    return text.rpartition(":")[2]


def write_name(name: str) -> str:
    r"""Write the name of a layer or a class so that it can stand in a list of nodes.

    A name of plain characters stays as it is. One that is empty, begins with a quotation mark or a bracket, or holds a
    space, a comma, a colon, ``@``, ``*`` or what cannot be printed is put in double quotation marks: there ``\"`` and
    ``\\`` stand for a mark and a backslash, ``\u{a}`` for what cannot be printed.
    """
    if _PLAIN.fullmatch(name) and name.isprintable():
        return name
    return '"' + "".join(map(_escape, name)) + '"'


def read_name(text: str) -> str:
    """Return the name that ``text``, of the form ``QUOTED``, holds."""
    return _ESCAPED.sub(_unescape, text[1:-1])


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\u{{{ord(character):x}}}"


def _unescape(found: re.Match[str]) -> str:
    if found[1]:
        return found[1]
    point = int(found[2], 16)
    return chr(point) if point <= 0x10FFFF else found[0]


def _node(found: re.Match[str]) -> Node | None:
    layer, channel = found["layer"], found["channel"]
    terms = read_terms(channel) if channel.startswith("[") else ((int(channel), 1.0),)
    kept = normal_terms(terms or ())
    if not kept or not all(math.isfinite(weight) for _, weight in kept):
        return None
    position = None if found["row"] is None else (int(found["row"]), int(found["column"]))
    return sum_node(
        read_name(layer) if layer[0] in "\"'" else layer,
        kept,
        position=position,
        mean=found["mean"] is not None,
        after=found["after"] is not None,
    )
