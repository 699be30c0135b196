"""Nodes by name: ``layer:channel``, with ranges, class names and positions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from raygen.errors import NodeError, closest
from raygen.networks.layers import Layer
from raygen.networks.network import Network

_SEPARATORS = re.compile(r"[\s,]*")
_LAYER = re.compile(r"[^\s,:@]+")
_CHANNELS = re.compile(r"(\*)(?![^\s,@])|(\d+)(?:-(\d+))?(?![^\s,@])")
_POSITION = re.compile(r"@(\d+),(\d+)(?![^\s,])")
_END = re.compile(r"$|[\s,@]")


@dataclass(frozen=True, order=True)
class Node:
    """One node of a network, written ``layer:channel`` or ``layer:channel@row,column``.

    Attributes:
        layer: dotted name of the module.
        channel: from 0.
        position: (row, column) on the layer's map; None for the centre, and for layers without a map.
    """

    layer: str
    channel: int
    position: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.layer}:{self.channel}" + ("" if self.position is None else "@{},{}".format(*self.position))


def parse_nodes(text: str, network: Network, layers: Sequence[Layer]) -> tuple[Node, ...]:
    """Return the nodes that ``text`` lists, in its order, each once.

    Items are separated by commas or spaces: ``layer`` (all its channels), ``layer:*``, ``layer:7``, ``layer:3-17``
    (both ends included) or ``layer:class name``, each with an optional ``@row,column``. A number is always a channel.
    Of the class names that match, the longest counts; underscores stand for spaces, and case only tells apart names
    that are otherwise the same.

    Raises:
        NodeError: if an item names a layer, channel, class or position that is not there, or there is no item.
    """
    known = {layer.name: layer for layer in layers}
    nodes: dict[Node, None] = {}
    place = _skip(text, 0)
    while place < len(text):
        layer, place = _read_layer(text, place, known)
        channels, place = _read_channels(text, place, layer, network)
        position, place = _read_position(text, place, layer)
        nodes.update((Node(layer.name, channel, position), None) for channel in channels)
        place = _skip(text, place)
    if not nodes:
        raise NodeError("no node is named", where="nodes", right="give layer:channel, such as conv2:7")
    return tuple(nodes)


def node_label(node: Node, network: Network, layers: Sequence[Layer]) -> str | None:
    """Return the class name of a node of the class layer, None for any other node."""
    classes = any(layer.name == node.layer and layer.is_classes for layer in layers)
    return network.class_names[node.channel] if classes else None


def _skip(text: str, place: int) -> int:
    found = _SEPARATORS.match(text, place)
    return found.end() if found else place


def _read_layer(text: str, place: int, known: dict[str, Layer]) -> tuple[Layer, int]:
    found = _LAYER.match(text, place)
    name = found[0] if found else _item(text, place)
    if found is None or name not in known:
        raise NodeError(f"unknown layer {name!r}", where=f"nodes {_item(text, place)}", right=closest(name, known))
    return known[name], found.end()


def _read_channels(text: str, place: int, layer: Layer, network: Network) -> tuple[Sequence[int], int]:
    if not text.startswith(":", place):
        return range(layer.channels), place
    place += 1
    found = _CHANNELS.match(text, place)
    if found is None:
        return _read_class(text, place, layer, network)
    if found[1]:
        return range(layer.channels), found.end()
    first, last = int(found[2]), int(found[3] or found[2])
    where, right = f"nodes {layer.name}:{found[0]}", f"channels of {layer.name} are 0-{layer.channels - 1}"
    if max(first, last) >= layer.channels:
        raise NodeError(f"there is no channel {max(first, last)}", where=where, right=right)
    if first > last:
        raise NodeError(f"the range {found[0]} is empty", where=where, right=f"give {last}-{first}")
    return range(first, last + 1), found.end()


def _read_class(text: str, place: int, layer: Layer, network: Network) -> tuple[Sequence[int], int]:
    rest = text[place:].replace("_", " ")
    item = _item(text, place).split("@")[0]
    where = f"nodes {layer.name}:{item}"
    if not layer.is_classes:
        right = f"give a channel 0-{layer.channels - 1}, a range such as 0-3, or *"
        raise NodeError(f"{item!r} is no channel of {layer.name}", where=where, right=right)
    names = [name.replace("_", " ") for name in network.class_names]
    matches = [
        channel
        for channel, name in enumerate(names)
        if rest[: len(name)].casefold() == name.casefold() and _END.match(rest, len(name))
    ]
    longest = max((len(names[channel]) for channel in matches), default=0)
    matches = [channel for channel in matches if len(names[channel]) == longest > 0]
    exact = [channel for channel in matches if rest.startswith(names[channel])]
    matches = exact or matches
    if not matches:
        raise NodeError(f"unknown class {item!r}", where=where, right=closest(item, network.class_names))
    if len(matches) > 1:
        what = f"{len(matches)} classes bear the name {names[matches[0]]!r}"
        right = "give the channel: " + " or ".join(str(channel) for channel in matches)
        raise NodeError(what, where=where, right=right)
    return matches, place + longest


def _read_position(text: str, place: int, layer: Layer) -> tuple[tuple[int, int] | None, int]:
    if not text.startswith("@", place):
        return None, place
    found = _POSITION.match(text, place)
    where = f"nodes {layer.name}"
    if found is None:
        raise NodeError(f"{_item(text, place)!r} is no position", where=where, right="give @row,column, such as @3,4")
    position = int(found[1]), int(found[2])
    check_position(position, layer.map_size, where=f"{where}{found[0]}", layer=layer.name)
    return position, found.end()


def check_position(position: tuple[int, int], map_size: tuple[int, int] | None, *, where: str, layer: str) -> None:
    """Raise NodeError if ``position`` (row, column) does not lie on a map of ``map_size`` (height, width)."""
    if map_size is None:
        raise NodeError(f"{layer} has no map", where=where, right="leave the position out")
    height, width = map_size
    if not (0 <= position[0] < height and 0 <= position[1] < width):
        what = f"position {position[0]},{position[1]} is outside the map of {layer}"
        raise NodeError(what, where=where, right=f"rows are 0-{height - 1}, columns 0-{width - 1}")


def _item(text: str, place: int) -> str:
    return text[place:].split(",", maxsplit=1)[0].strip()[:60]
