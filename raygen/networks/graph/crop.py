"""A traced network cropped to what one response needs: no padding, and where paths meet, the part that they share."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from raygen.networks.graph.receptive import Field
from raygen.networks.graph.steps import Pair, Shapes, Window, is_pool, pool_arguments, step_of
from raygen.networks.graph.tracing import Traced


@dataclass(frozen=True)
class Span:
    """The part of a map that is needed, in the whole map's rows and columns; ends included."""

    first: Pair
    last: Pair

    @property
    def size(self) -> Pair:
        """(height, width)."""
        return self.last[0] - self.first[0] + 1, self.last[1] - self.first[1] + 1

    def hull(self, other: Span) -> Span:
        """Return the smallest span that holds both."""
        first = min(self.first[0], other.first[0]), min(self.first[1], other.first[1])
        return Span(first, (max(self.last[0], other.last[0]), max(self.last[1], other.last[1])))

    def through(self, window: Window) -> Span:
        """Return the inputs that the responses of this span see through ``window``."""
        first = [window.stride[i] * self.first[i] - window.padding[i] for i in (0, 1)]
        reach = [window.dilation[i] * (window.kernel[i] - 1) - window.padding[i] for i in (0, 1)]
        last = [window.stride[i] * self.last[i] + reach[i] for i in (0, 1)]
        return Span((first[0], first[1]), (last[0], last[1]))


Fields = Mapping[fx.Node, Field | None]


def needed_spans(traced: Traced, last: fx.Node, place: Pair, fields: Fields, shapes: Shapes) -> dict[fx.Node, Span]:
    """Return which part of each value the response of ``last`` at ``place`` needs, by walking back from it.

    ``fields[last]`` must not be None. Spans may lie outside the map, where the response sees padding.
    """
    spans = {last: Span(place, place)}
    for node in reversed(traced.module.graph.nodes):
        if node not in spans:
            continue
        step = step_of(traced.module, node, shapes)
        asked = spans[node].through(step) if isinstance(step, Window) else spans[node]
        for source in node.all_input_nodes:
            if fields.get(source) is not None:
                spans[source] = spans[source].hull(asked) if source in spans else asked
    return spans


def crop_graph(traced: Traced, last: fx.Node, place: Pair, fields: Fields, shapes: Shapes) -> fx.GraphModule | None:
    """Return a copy of ``traced`` that maps the field of ``last`` at ``place`` to its response there, (N, C, 1, 1).

    Each convolution and pooling gets just the inputs that it needs, and no padding. None where paths of different
    sizes meet with their channels last.
    """
    spans = needed_spans(traced, last, place, fields, shapes)
    rearranged = {node for node in spans if (field := fields[node]) is not None and field.channels_last}
    return _Writer(traced, spans, shapes, rearranged).write(last)


class _Writer:
    def __init__(self, traced: Traced, spans: Mapping[fx.Node, Span], shapes: Shapes, rearranged: Set[fx.Node]) -> None:
        self._traced = traced
        self._spans = spans
        self._shapes = shapes
        self._rearranged = rearranged  # values whose channels lie last
        self._graph = fx.Graph()
        self._values: dict[fx.Node, fx.Node] = {}
        self._held: dict[fx.Node, Span] = {}  # what each new value covers: its span, or more
        self._cut_out: dict[tuple[fx.Node, Span], fx.Node] = {}

    def write(self, last: fx.Node) -> fx.GraphModule | None:
        for node in self._needed(last):
            if not self._copy(node):
                return None
        self._graph.output(self._part(last, self._spans[last]))
        # The constructor takes only the layers that the graph calls.
        cropped = copy.deepcopy(fx.GraphModule(self._traced.module, self._graph)).eval()
        for layer in cropped.modules():
            _drop_padding(layer)
        return cropped

    def _needed(self, last: fx.Node) -> list[fx.Node]:
        needed = {last}
        nodes = list(self._traced.module.graph.nodes)
        for node in reversed(nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        return [node for node in nodes if node in needed]

    def _copy(self, node: fx.Node) -> bool:
        sources = [source for source in node.all_input_nodes if source in self._spans]
        asked: Span | None = None
        if node in self._spans:
            step = step_of(self._traced.module, node, self._shapes)
            if isinstance(step, Window):
                self._held[node], asked = self._spans[node], self._spans[node].through(step)
            elif len({self._held[source] for source in sources}) > 1:
                if node in self._rearranged:
                    return False
                self._held[node] = asked = self._spans[node]
            else:
                self._held[node] = self._held[sources[0]] if sources else self._spans[node]
        parts = {source: self._values[source] if asked is None else self._part(source, asked) for source in sources}
        new = self._graph.node_copy(node, lambda source: parts.get(source) or self._values[source])
        _adapt(new, sliced=asked is not None)
        self._values[node] = new
        return True

    def _part(self, node: fx.Node, span: Span) -> fx.Node:
        held, value = self._held[node], self._values[node]
        if held == span:
            return value
        if (node, span) not in self._cut_out:
            first = [span.first[i] - held.first[i] for i in (0, 1)]
            rows, columns = (slice(first[i], first[i] + span.size[i]) for i in (0, 1))
            index: Any = (..., rows, columns)
            self._cut_out[node, span] = self._graph.call_function(operator.getitem, (value, index))
        return self._cut_out[node, span]


def _adapt(node: fx.Node, *, sliced: bool) -> None:
    """Take the padding off a functional pooling; let a step on a slice, which others may share, change nothing."""
    if is_pool(node):
        given: dict[str, Any] = pool_arguments(node)
        node.args, node.kwargs = (given.pop("input"),), {**given, "padding": 0}
    elif sliced:
        calm: dict[Any, Any] = {operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul}
        node.target = calm.get(node.target, node.target)
        if node.op == "call_method":
            node.target = str(node.target).rstrip("_")


def _drop_padding(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        layer.padding, layer.padding_mode = (0, 0), "zeros"
    elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        layer.padding = 0
