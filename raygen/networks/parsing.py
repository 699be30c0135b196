"""Nodes by name: lists, ranges, class names, weighted sums and positions, as users write them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from raygen.errors import NodeError, closest
from raygen.networks.graph.layers import Layer
from raygen.networks.network import Network
from raygen.networks.nodes import Node, check_position, sum_node
from raygen.networks.terms import NUMBER

_STARRED = {"conv", "linear"}
"""Kinds of layers that a name with a star stands for: the others respond to what these do."""

_SEPARATORS = re.compile(r"[\s,]*")
_LAYER = re.compile(r"[^\s,:@]+")
_CHANNELS = re.compile(r"(\*)(?![^\s,@])|(\d+)(?:-(\d+))?(?![^\s,@])")
_ENDING = re.compile(r"@(?:(\d+),(\d+)|(mean)|(relu))(?![^\s,@])")
_SIGN = re.compile(r"\s*([+-]?)\s*")
_FACTOR = re.compile(rf"({NUMBER})\s*\*\s*")
_CHANNEL = re.compile(r"(\d+)(?=\s*[+\-\]])")
_AT = re.compile("@")
_END = re.compile(r"$|[\s,@]")
_END_OF_TERM = re.compile(r"\s*[+\-\]]")


def parse_nodes(text: str, network: Network, layers: Sequence[Layer]) -> tuple[Node, ...]:
    """Return the nodes that ``text`` lists, in its order, each once.

    Items are separated by commas or spaces::

        layer, layer:*                  all channels of a layer
        layer:7, layer:3-17             channels, both ends of a range included
        layer:ostrich, layer:{ostrich}  a class; braces where its name begins with a digit or a bracket
        layer:[9-950], layer:[0.5*12+7] a weighted sum of channels, written with a weight for each or without
        layer:[ostrich - orange]        the same of classes
        features.*:0-9, *:*             of every convolution and linear layer whose name fits; * stands for any text

    each with an optional ``@row,column`` or ``@mean`` (over the map; the centre is meant without), and ``@relu`` (of a
    layer that ends with a ReLU its output, not its input). A number is always a channel. Of the class names that
    match, the longest counts; underscores stand for spaces, and case only tells apart names that are otherwise the
    same.

    Raises:
        NodeError: if an item names a layer, channel, class or position that is not there, or there is no item.
    """
    nodes: dict[Node, None] = {}
    place = _skip(text, 0)
    while place < len(text):
        chosen, begin = _read_layers(text, place, layers)
        for layer in chosen:
            found, place = _read_channels(text, begin, layer, network)
            ending, place = _read_endings(text, place, layer)
            if ending.ending:
                found = [replace(node, position=ending.position, mean=ending.mean, after=ending.after)
                         for node in found]  # fmt: skip
            nodes.update(dict.fromkeys(found))
        place = _skip(text, place)
    if not nodes:
        raise NodeError("no node is named", where="nodes", right="give layer:channel, such as conv2:7")
    return tuple(nodes)


def _skip(text: str, place: int) -> int:
    found = _SEPARATORS.match(text, place)
    return found.end() if found else place


def _read_layers(text: str, place: int, layers: Sequence[Layer]) -> tuple[Sequence[Layer], int]:
    """Return the layer of a name, or all that fit a name with stars; at least one."""
    found = _LAYER.match(text, place)
    name = found[0] if found else _item(text, place)
    if "*" in name:
        pattern = re.compile(".*".join(map(re.escape, name.split("*"))))
        fit = [layer for layer in layers if layer.kind in _STARRED and pattern.fullmatch(layer.name)]
    else:
        fit = [layer for layer in layers if layer.name == name]
    if found is None or not fit:
        what = f"no convolution or linear layer fits {name!r}" if "*" in name else f"unknown layer {name!r}"
        right = closest(name, [layer.name for layer in layers])
        raise NodeError(what, where=f"nodes {_item(text, place)}", right=right)
    return fit, found.end()


def _read_channels(text: str, place: int, layer: Layer, network: Network) -> tuple[Sequence[Node], int]:
    if not text.startswith(":", place):
        return [Node(layer.name, channel) for channel in range(layer.channels)], place
    place += 1
    if text.startswith("[", place):
        return _read_sum(text, place, layer, network)
    found = _CHANNELS.match(text, place)
    if found is None:
        channel, place = _read_class(text, place, layer, network, _END)
        return [Node(layer.name, channel)], place
    if found[1]:
        return [Node(layer.name, channel) for channel in range(layer.channels)], found.end()
    first, last = int(found[2]), int(found[3] or found[2])
    _check_channel(max(first, last), layer, found[0])
    if first > last:
        where = f"nodes {layer.name}:{found[0]}"
        raise NodeError(f"the range {found[0]} is empty", where=where, right=f"give {last}-{first}")
    return [Node(layer.name, channel) for channel in range(first, last + 1)], found.end()


def _check_channel(channel: int, layer: Layer, item: str) -> None:
    if channel >= layer.channels:
        right = f"channels of {layer.name} are 0-{layer.channels - 1}"
        raise NodeError(f"there is no channel {channel}", where=f"nodes {layer.name}:{item}", right=right)


def _read_sum(text: str, place: int, layer: Layer, network: Network) -> tuple[Sequence[Node], int]:
    item = text[place:].split("]", maxsplit=1)[0][:60] + "]"
    where, right = f"nodes {layer.name}:{item}", "give channels with signs and weights, such as [0.5*12+7] or [3-5]"
    terms: list[tuple[int, float]] = []
    place += 1
    while not (text.startswith("]", place) and terms):
        sign = _SIGN.match(text, place)
        if sign is None or (terms and not sign[1]) or text[sign.end() : sign.end() + 1] in ("", "]"):
            raise NodeError("is no weighted sum", where=where, right=right)
        factor = _FACTOR.match(text, sign.end())
        weight = float(factor[1]) if factor else 1.0
        if not math.isfinite(weight):
            raise NodeError(f"the weight {factor[1] if factor else ''} is too large", where=where, right=right)
        place = factor.end() if factor else sign.end()
        number = _CHANNEL.match(text, place)
        if number:
            channel, place = int(number[1]), number.end()
            _check_channel(channel, layer, item)
        else:
            channel, place = _read_class(text, place, layer, network, _END_OF_TERM)
        place += len(text[place:]) - len(text[place:].lstrip())
        terms.append((channel, -weight if sign[1] == "-" else weight))
    return [sum_node(layer.name, terms)], place + 1


def _read_class(text: str, place: int, layer: Layer, network: Network, end: re.Pattern[str]) -> tuple[int, int]:
    braced = text.startswith("{", place) and "}" in text[place:]
    item = text[place + 1 :].split("}", maxsplit=1)[0] if braced else _item(text, place)
    if not braced:
        item = (_END_OF_TERM if end is _END_OF_TERM else _AT).split(item)[0]
    where = f"nodes {layer.name}:{item}"
    if not layer.is_classes:
        right = f"give a channel 0-{layer.channels - 1}, a range such as 0-3, or *"
        raise NodeError(f"{item!r} is no channel of {layer.name}", where=where, right=right)
    rest = (item if braced else text[place:]).replace("_", " ")
    names = [name.replace("_", " ") for name in network.class_names]
    matches = [
        channel
        for channel, name in enumerate(names)
        if rest[: len(name)].casefold() == name.casefold()
        and (len(name) == len(rest) if braced else end.match(rest, len(name)))
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
    return matches[0], place + longest + (2 if braced else 0)


def _read_endings(text: str, place: int, layer: Layer) -> tuple[Node, int]:
    """Return a node that has what the endings say, of whatever channel."""
    ending, seen = Node(layer.name, 0), set[str]()
    while text.startswith("@", place):
        found = _ENDING.match(text, place)
        where, item = f"nodes {layer.name}", "@" + _item(text, place + 1).split("@")[0]
        right = "give @row,column, such as @3,4, or @mean, or @relu"
        if found is None:
            raise NodeError(f"{item!r} is no position", where=where, right=right)
        kind = found[4] or "place"
        if kind in seen:
            raise NodeError(f"{found[0]!r} comes after another one", where=where, right="give one")
        seen.add(kind)
        ending = _end(ending, found, layer)
        place = found.end()
    return ending, place


def _end(ending: Node, found: re.Match[str], layer: Layer) -> Node:
    where = f"nodes {layer.name}{found[0]}"
    if found[4]:
        if not layer.rectified:
            raise NodeError(f"{layer.name} does not end with a ReLU", where=where, right="leave @relu out")
        return replace(ending, after=True)
    if found[3]:
        if layer.map_size is None:
            raise NodeError(f"{layer.name} has no map", where=where, right="leave @mean out")
        return replace(ending, mean=not layer.is_classes)
    position = int(found[1]), int(found[2])
    check_position(position, layer.map_size, where=where, layer=layer.name)
    return replace(ending, position=position)


def _item(text: str, place: int) -> str:
    return text[place:].split(",", maxsplit=1)[0].strip()[:60]
