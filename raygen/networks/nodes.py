"""A node of a network, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raygen.errors import NodeError
from raygen.networks.graph.layers import Layer
from raygen.networks.network import Network
from raygen.networks.terms import Terms, format_terms, label_terms, normal_terms, read_terms

_WRITTEN = re.compile(r"(?P<layer>[^\s,:@]+):(?P<channel>\d+|\[[^\]]*\])(?P<ends>(?:@[^@]+)*)")
_POSITION = re.compile(r"(\d+),(\d+)")


@dataclass(frozen=True, order=True, slots=True)
class Node:
    """One node of a network: a channel of a layer, or a weighted sum of its channels.

    Written ``layer:channel`` or, for a sum, ``layer:[0.5*12+7]`` or ``layer:[9-950]``, then where on the map, then
    ``@relu``: ``conv2:7``, ``conv2:7@3,4``, ``conv2:7@mean``, ``features.1:[3-5]@mean@relu``. What ``str`` writes,
    :func:`read_node` and :func:`parse_nodes` read back as an equal node.

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
        return f"{self.layer}:{format_terms(self.terms) if self.terms else self.channel}{self.ending}"

    @property
    def ending(self) -> str:
        """Where on the map, and whether after the ReLU: ``@3,4``, ``@mean@relu``; mostly empty.

        Nodes with the same layer and ending may share a batch.
        """
        place = "@mean" if self.mean else "" if self.position is None else "@{},{}".format(*self.position)
        return place + ("@relu" if self.after else "")


def sum_node(
    layer: str,
    terms: Iterable[tuple[int, float]],
    *,
    position: tuple[int, int] | None = None,
    mean: bool = False,
    after: bool = False,
) -> Node:
    """Return the node of a weighted sum of channels, in one form however it is written.

    Raises:
        NodeError: if nothing is left of the sum.
    """
    kept = normal_terms(terms)
    if not kept:
        raise NodeError("the weighted sum is 0", where=f"nodes {layer}", right="give channels with weights, as [3-5]")
    alone = len(kept) == 1 and kept[0][1] == 1
    return Node(layer, kept[0][0], position, mean, after, () if alone else kept)


def read_node(text: str) -> Node:
    """Return the node that ``str`` wrote; whether a network has it is not looked at.

    Raises:
        NodeError: if ``text`` is something else.
    """
    found = _WRITTEN.fullmatch(text)
    node = None if found is None else _read(found["layer"], found["channel"], found["ends"].split("@")[1:])
    if node is None or str(node) != text:
        raise NodeError("is no node as raygen writes it", where=f"node {text}", right="give one such as conv2:7@3,4")
    return node


def node_label(node: Node, network: Network, layers: Sequence[Layer]) -> str | None:
    """Return the class name of a node of the class layer (``ostrich - orange`` of a sum), None for any other node."""
    if not any(layer.name == node.layer and layer.is_classes for layer in layers):
        return None
    return label_terms(node.terms or ((node.channel, 1.0),), network.class_names)


def check_position(position: tuple[int, int], map_size: tuple[int, int] | None, *, where: str, layer: str) -> None:
    """Raise NodeError if ``position`` (row, column) does not lie on a map of ``map_size`` (height, width)."""
    if map_size is None:
        raise NodeError(f"{layer} has no map", where=where, right="leave the position out")
    height, width = map_size
    if not (0 <= position[0] < height and 0 <= position[1] < width):
        what = f"position {position[0]},{position[1]} is outside the map of {layer}"
        raise NodeError(what, where=where, right=f"rows are 0-{height - 1}, columns 0-{width - 1}")


def _read(layer: str, channel: str, ends: Sequence[str]) -> Node | None:
    terms = read_terms(channel) if channel.startswith("[") else ((int(channel), 1.0),)
    places = [found for end in ends if (found := _POSITION.fullmatch(end))]
    if terms is None or not normal_terms(terms):
        return None
    position = (int(places[0][1]), int(places[0][2])) if places else None
    return sum_node(layer, terms, position=position, mean="mean" in ends, after="relu" in ends)
