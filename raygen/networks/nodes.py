"""The nodes that a network has: those that a list names, and what its class names call them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from raygen.errors import NodeError, closest
from raygen.networks.graph.layers import Layer
from raygen.networks.network import Network
from raygen.notation import (
    TOO_LARGE,
    Channels,
    Item,
    Name,
    Node,
    fold,
    label_terms,
    quote,
    read_list,
    read_node,
    sum_node,
    write_name,
)

__all__ = ["Node", "check_position", "node_label", "parse_nodes", "read_node", "sum_node"]

_STARRED = {"conv", "linear"}
"""Kinds of layers that a name with a star stands for: the others respond to what these do."""


def parse_nodes(text: str, network: Network, layers: Sequence[Layer]) -> tuple[Node, ...]:
    """Return the nodes that ``text`` lists, in its order, each once.

    Items are separated by commas or spaces::

        layer, layer:*                  all channels of a layer
        layer:7, layer:3-17             channels, both ends of a range included
        layer:ostrich, layer:{ostrich}  a class; braces or quotation marks where its name begins with a digit or bracket
        layer:3,7-9,ostrich             after a comma more channels of the same layer
        layer:[9-950], layer:[0.5*12+7] a weighted sum of channels, written with a weight for each or without
        layer:[ostrich - orange]        the same of classes
        features.*:0-9, *:*             of every convolution and linear layer whose name fits; * stands for any text
        "my layer: 2":"a, b: c"         names in quotation marks, single or double, hold anything

    each with an optional ``@row,column`` or ``@mean`` (over the map; the centre is meant without), and ``@relu`` (of a
    layer that ends with a ReLU its output, not its input).

    A number is always a channel. An unquoted name may hold spaces, commas and colons: of the known names, the longest
    counts. After ``layer:channel`` and a comma, what is the name of a layer is that layer, even where a class bears the
    same name (``fc:ostrich,conv2``: in quotation marks or braces it is the class); everything else is a channel of
    ``layer``. After a space alone an item begins with its layer's name. In a class name underscores stand for spaces,
    and case only tells apart names that are otherwise the same.

    Raises:
        NodeError: if an item names a layer, channel, class or position that is not there, or there is no item.
    """
    names = _Names(network, layers)
    nodes: dict[Node, None] = {}
    for item in read_list(text, names.layers, network.class_names):
        for layer in names.layers_of(item):
            nodes.update(dict.fromkeys(_of_layer(item, layer, names)))
    if not nodes:
        raise NodeError("no node is named", where="nodes", right="give layer:channel, such as conv2:7")
    return tuple(nodes)


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


class _Names:
    """A network's layers and classes, by name."""

    def __init__(self, network: Network, layers: Sequence[Layer]) -> None:
        self.layers = {layer.name: layer for layer in layers}
        self.classes = network.class_names
        self._exact = _by_key(self.classes, str)
        self._spaced = _by_key(self.classes, lambda name: name.replace("_", " "))
        self._folded = _by_key(self.classes, fold)
        self._previous: Item | None = None

    def layers_of(self, item: Item) -> Sequence[Layer]:
        """Return the layer that an item names, or all that fit a name with stars; at least one."""
        name, previous = item.layer, self._previous
        self._previous = item
        if "*" in name.text and not name.quoted:
            pattern = _starred(name.text)
            fit = [layer for layer in self.layers.values() if layer.kind in _STARRED and pattern.fullmatch(layer.name)]
            what = f"no convolution or linear layer fits '{quote(name.text)}'"
        else:
            fit = [self.layers[name.text]] if name.text in self.layers else []
            what = f"unknown layer '{quote(name.text)}'"
        if not fit:
            raise NodeError(what, where=_where(item), right=self._instead(item, previous))
        return fit

    def channel(self, name: Name, item: Item, layer: Layer) -> int:
        """Return the channel of a class."""
        found = self._find(name.text) if layer.is_classes and (name.text or name.quoted) else ()
        if not found:
            raise self._no_class(name, item, layer)
        if len(found) > 1:
            what = f"{len(found)} classes bear the name '{quote(self.classes[found[0]])}'"
            raise NodeError(what, where=_where(item), right="give the channel: " + " or ".join(map(str, found)))
        return found[0]

    def _find(self, name: str) -> Sequence[int]:
        """Return the channels of the classes whose names are most like ``name``."""
        spaced = name.replace("_", " ")
        return self._exact.get(name) or self._spaced.get(spaced) or self._folded.get(fold(name)) or ()

    def _no_class(self, name: Name, item: Item, layer: Layer) -> NodeError:
        shown, own = quote(name.text), write_name(layer.name)
        channels = f"a channel 0-{layer.channels - 1}, a range such as 0-3, or *"
        if not shown:
            kind, channels = ("class", f"a class, {channels}") if layer.is_classes else ("channel", channels)
            what, right = f"the empty name after the colon is no {kind} of {own}", f"give {channels}"
        elif item.continues and item.choice == name and not name.quoted:
            kind, known = ("class", [*self.layers, *self.classes]) if layer.is_classes else ("channel", self.layers)
            what = f"'{shown}' is neither a layer nor a {kind} of {own}"
            right = self._as_class(name.text) or _closest(name.text, known)
            if kind == "channel" and right.startswith("known"):
                right = f"give {channels}"
        elif layer.is_classes:
            what, right = f"unknown class '{shown}'", _closest(name.text, self.classes)
        else:
            what, right = f"'{shown}' is no channel of {own}", f"give {channels}"
        return NodeError(what, where=_where(item), right=right)

    def _instead(self, item: Item, previous: Item | None) -> str:
        """Return what would be right where the layer is unknown."""
        name = item.layer.text
        if not name:
            return f"begin with the name of a layer, such as {write_name(next(iter(self.layers), 'conv2'))}"
        if item.alone and (right := self._as_class(name)):
            return right
        if item.alone and previous is not None and not previous.alone and re.fullmatch("[0-9]+(-[0-9]+)?", name):
            return "for channels of the layer before, put a comma instead of the space"
        if item.alone and previous is not None and isinstance(previous.choice, Name):
            # Of a class of several words the first may be a class itself.
            right = _closest(f"{previous.choice.text} {name}", self.classes)
            if right.startswith("did you mean"):
                return right
        return _closest(name, self.layers)

    def _as_class(self, name: str) -> str | None:
        """Return how ``name`` is written as a class of this network, None if it is none."""
        own = next((layer.name for layer in self.layers.values() if layer.is_classes), None)
        return f"for the class write {write_name(own)}:{write_name(name)}" if own and self._find(name) else None


def _starred(name: str) -> re.Pattern[str]:
    head, *middle, tail = map(re.escape, name.split("*"))
    # Each part is looked for once: nested searches take for ever where a name has many stars.
    parts = "".join(f"(?>.*?{part})" for part in middle)
    return re.compile(f"{head}{parts}.*{tail}", re.DOTALL)


def _of_layer(item: Item, layer: Layer, names: _Names) -> Iterable[Node]:
    choice = item.choice
    if choice is None:
        channels: Iterable[int] = range(layer.channels)
    elif isinstance(choice, Channels):
        channels = _range(choice, item, layer)
    elif isinstance(choice, Name):
        channels = (names.channel(choice, item, layer),)
    else:
        terms = [
            (names.channel(of, item, layer) if isinstance(of, Name) else _checked(of, item, layer), weight)
            for of, weight in choice
        ]
        position, mean, after = _ending(item, layer)
        return (sum_node(layer.name, terms, position=position, mean=mean, after=after, where=_where(item)),)
    position, mean, after = _ending(item, layer)
    return [Node(layer.name, channel, position, mean, after) for channel in channels]


def _range(asked: Channels, item: Item, layer: Layer) -> Iterable[int]:
    first, last = asked.first, asked.last
    _checked(max(first, last), item, layer)
    if first > last:
        raise NodeError(f"the range {first}-{last} is empty", where=_where(item), right=f"give {last}-{first}")
    return range(first, last + 1)


def _checked(channel: int, item: Item, layer: Layer) -> int:
    if channel >= layer.channels:
        right = f"channels of {write_name(layer.name)} are 0-{layer.channels - 1}"
        asked = str(channel) if channel < TOO_LARGE else "of so many digits"
        raise NodeError(f"there is no channel {asked}", where=_where(item), right=right)
    return channel


def _ending(item: Item, layer: Layer) -> tuple[tuple[int, int] | None, bool, bool]:
    """Return position, mean and after, as nodes have them."""
    asked, own = item.ending, write_name(layer.name)
    if asked.after and not layer.rectified:
        raise NodeError(f"{own} does not end with a ReLU", where=_where(item), right="leave @relu out")
    if asked.mean and layer.map_size is None:
        raise NodeError(f"{own} has no map", where=_where(item), right="leave @mean out")
    if asked.position is not None:
        check_position(asked.position, layer.map_size, where=_where(item), layer=own)
    return asked.position, asked.mean and not layer.is_classes, asked.after


def _where(item: Item) -> str:
    return f"nodes {quote(item.text)}"


def _closest(name: str, known: Iterable[str]) -> str:
    return closest(write_name(name), dict.fromkeys(map(write_name, known)))


def _by_key(names: Sequence[str], key: Callable[[str], str]) -> dict[str, list[int]]:
    channels: dict[str, list[int]] = {}
    for channel, name in enumerate(names):
        channels.setdefault(key(name), []).append(channel)
    return channels
