"""The part of a traced graph that one response needs, and a graph that computes no more than that."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from raygen.networks.graph.anatomy import graph_shapes
from raygen.networks.graph.plain import copy_module
from raygen.networks.graph.receptive import Field
from raygen.networks.graph.steps import (
    Pair,
    Shapes,
    Step,
    Window,
    grid_slice,
    has_window,
    is_padding,
    step_of,
    takes_maximum,
    window_arguments,
)
from raygen.networks.graph.tracing import Traced, drop_dead, module_of, result

Fields = Mapping[fx.Node, Field | None]


@dataclass(frozen=True)
class Span:
    """A part of a map, in the whole map's rows and columns; ends included."""

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

    def within(self, other: Span) -> Span:
        """Return what the two have in common; of a size below 1 where that is nothing."""
        first = max(self.first[0], other.first[0]), max(self.first[1], other.first[1])
        return Span(first, (min(self.last[0], other.last[0]), min(self.last[1], other.last[1])))

    def through(self, window: Window) -> Span:
        """Return the inputs that the responses of this span see through ``window``."""
        first = [window.stride[i] * self.first[i] - window.padding[i] for i in (0, 1)]
        reach = [window.dilation[i] * (window.kernel[i] - 1) - window.padding[i] for i in (0, 1)]
        last = [window.stride[i] * self.last[i] + reach[i] for i in (0, 1)]
        return Span((first[0], first[1]), (last[0], last[1]))


def crop_graph(traced: Traced, last: fx.Node, position: Pair, fields: Fields, shapes: Shapes) -> fx.GraphModule | None:
    """Return a copy of ``traced`` that maps the field of ``last`` at ``position`` to its response there, (N, C, 1, 1).

    Each convolution and pooling gets just the inputs that it needs. None where paths of different sizes meet with
    their channels last.

    Args:
        traced: the whole network; not changed.
        last: a value with a field.
        position: (row, column) of a response on its map that sees no padding.
        fields: of all values.
        shapes: of all values.
    """
    spans = needed_spans(traced, last, position, fields, shapes)
    try:
        return _Writer(traced.module, spans, shapes, fields).write(last, spans[last])
    except _ChannelsLastError:
        return None


def trim_graph(module: fx.GraphModule, input_shape: tuple[int, int, int], position: Pair) -> fx.GraphModule:
    """Return a copy of ``module`` that computes its response at ``position`` alone: (N, C, 1, 1) from the whole input.

    Every convolution and pooling on the way computes what that needs and no more, padding included; steps that are not
    understood, and what leads to them, stay whole. The response and its gradient stay the same up to round-off.

    Args:
        module: a cut's graph, with a map for its result; not changed.
        input_shape: (C, h, w).
        position: (row, column) on that map.
    """
    shapes = graph_shapes(module, input_shape)
    last = result(module.graph)
    return _Writer(module, _divided_spans(module, last, position, shapes), shapes).write(last, Span(position, position))


def needed_spans(traced: Traced, last: fx.Node, position: Pair, fields: Fields, shapes: Shapes) -> dict[fx.Node, Span]:
    """Return which part of each value with a field the response of ``last`` at ``position`` needs.

    ``fields[last]`` must not be None. Spans may lie outside the map, where the response sees padding.
    """
    spans = {last: Span(position, position)}
    for node in reversed(traced.module.graph.nodes):
        if node not in spans:
            continue
        step = step_of(traced.module, node, shapes)
        asked = spans[node].through(step) if isinstance(step, Window) else spans[node]
        for source in node.all_input_nodes:
            if fields.get(source) is not None:
                spans[source] = spans[source].hull(asked) if source in spans else asked
    return spans


def _divided_spans(module: fx.GraphModule, last: fx.Node, position: Pair, shapes: Shapes) -> dict[fx.Node, Span]:
    """Return the parts of the maps that need not be computed whole; the input is never one of them."""
    spans = {last: Span(position, position)}
    for node in reversed(module.graph.nodes):
        if node.op == "output":
            continue
        step = step_of(module, node, shapes)
        if node in spans and not _divides(module, node, spans[node], step, shapes):
            spans[node] = _whole(shapes[node])
        for source in node.all_input_nodes:
            if len(shapes.get(source, ())) == 4:
                asked = _asked(node, source, step, spans.get(node), shapes)
                spans[source] = spans[source].hull(asked) if source in spans else asked
    return {node: span for node, span in spans.items() if node.op != "placeholder" and span != _whole(shapes[node])}


def _asked(node: fx.Node, source: fx.Node, step: Step, span: Span | None, shapes: Shapes) -> Span:
    """Return the part of ``source`` that the part ``span`` of ``node`` needs, or the whole."""
    whole = _whole(shapes[source])
    if span is None or span == _whole(shapes[node]):
        return whole
    if isinstance(step, Window):
        return span.through(step).within(whole)
    return span if _same_grid(source, node, shapes) else whole


def _divides(module: nn.Module, node: fx.Node, span: Span, step: Step, shapes: Shapes) -> bool:
    """Say whether a part of the value of ``node`` can be computed from parts of its sources."""
    maps = [source for source in node.all_input_nodes if source in shapes]
    if isinstance(step, Window):
        layer = module_of(module, node)
        asked = span.through(step)
        given = asked.within(_whole(shapes[maps[0]]))
        zeros = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros"
        # A window may lie in the padding altogether.
        inside = given == asked or zeros or isinstance(layer, nn.MaxPool2d)
        return layer is not None and min(given.size) > 0 and inside
    if step != "same" or len(maps) < len(node.all_input_nodes):  # without a shape are sizes, which hold for the whole
        return False
    grids = [_same_grid(source, node, shapes) for source in maps]
    spread = (len(shapes[source]) == 0 or shapes[source][-2:] == (1, 1) for source in maps)
    return any(grids) and all(map(operator.or_, grids, spread))


def _same_grid(source: fx.Node, node: fx.Node, shapes: Shapes) -> bool:
    several = getattr(source.target, "__name__", source.target) in ("chunk", "split")
    return not several and len(shapes[source]) == 4 and shapes[source][-2:] == shapes[node][-2:]


def _whole(shape: tuple[int, ...]) -> Span:
    return Span((0, 0), (shape[-2] - 1, shape[-1] - 1))


class _ChannelsLastError(Exception):
    """A part is to be taken of a value whose channels lie last."""


class _Writer:
    """Writes a graph that computes the ``spans`` of some values, and all other values as they are.

    With ``fields`` the input is a part too (a crop), without it is whole (trimmed). In a crop, a value that is larger
    than a pointwise step needs goes through it as it is, since a view may hold its size, and a slice that several
    steps take is made once. Trimmed, each step takes a slice of its own, which gives the gradients that are added up
    another order: it stays so for the samples' last bits.
    """

    def __init__(
        self, module: fx.GraphModule, spans: Mapping[fx.Node, Span], shapes: Shapes, fields: Fields | None = None
    ) -> None:
        self._module = module
        self._spans = spans
        self._shapes = shapes
        self._fields = fields
        self._graph = fx.Graph()
        self._values: dict[fx.Node, fx.Node] = {}
        self._held: dict[fx.Node, Span] = {}  # what each new value covers: its span, or more
        self._slices: dict[tuple[fx.Node, Span], fx.Node] = {}
        self._layers: dict[str, nn.Module] = {}

    def write(self, last: fx.Node, span: Span) -> fx.GraphModule:
        for node in self._module.graph.nodes:
            if node.op != "output":
                self._values[node] = self._copy(node)
        self._graph.output(self._part(last, span))
        drop_dead(self._graph)
        names = {str(node.target) for node in self._graph.nodes if node.op in ("call_module", "get_attr")}
        found = {name: operator.attrgetter(name)(self._module) for name in names - self._layers.keys()}
        return copy_module(fx.GraphModule({**found, **self._layers}, self._graph)).eval()

    def _copy(self, node: fx.Node) -> fx.Node:
        span = self._spans.get(node)
        if span is None or node.op == "placeholder":
            if span is not None:
                self._held[node] = span
            return self._graph.node_copy(node, self._values.__getitem__)
        step = step_of(self._module, node, self._shapes)
        if isinstance(step, Window):
            self._held[node] = span
            return self._window(node, span.through(step))
        return self._pointwise(node, span)

    def _window(self, node: fx.Node, asked: Span) -> fx.Node:
        """Call a convolution or pooling without padding on the inputs ``asked``, with what is outside them put on."""
        layer, source = module_of(self._module, node), node.all_input_nodes[0]
        given = asked.within(_whole(self._shapes[source]))
        part = self._part(source, given)
        edges = tuple(
            size
            for axis in (1, 0)
            for size in (given.first[axis] - asked.first[axis], asked.last[axis] - given.last[axis])
        )
        if any(edges):
            outside = -math.inf if takes_maximum(self._module, node) else 0.0
            part = self._graph.call_function(F.pad, (part, edges, "constant", outside))
        if is_padding(self._module, node):
            return part
        if has_window(node):
            given_too = fx.map_arg(window_arguments(node), self._values.__getitem__)
            arguments = {**given_too, "padding": 0}
            arguments.pop("input")
            return self._graph.create_node("call_function", node.target, (part,), arguments)
        if (index := grid_slice(node)) is not None:
            steps = tuple(slice(None, None, side.step) for side in index[-2:])
            return self._graph.call_function(operator.getitem, (part, (*index[:-2], *steps)))
        name = f"{node.target}_part"
        self._layers.setdefault(name, _without_padding(layer))
        return self._graph.call_module(name, (part,))

    def _pointwise(self, node: fx.Node, span: Span) -> fx.Node:
        sources = [source for source in node.all_input_nodes if self._follows(node, source)]
        held = {self._held_by(source) for source in sources}
        if self._fields is not None and len(held) <= 1:
            self._held[node] = held.pop() if held else span
            return self._graph.node_copy(node, self._values.__getitem__)
        self._held[node] = span
        parts = {source: self._part(source, span) for source in sources}
        new = self._graph.node_copy(node, lambda source: parts.get(source) or self._values[source])
        if any(part is not self._values[source] for source, part in parts.items()):
            _change_nothing(new)
        return new

    def _follows(self, node: fx.Node, source: fx.Node) -> bool:
        """Say whether a part of ``node`` is made of the same part of ``source``."""
        return _same_grid(source, node, self._shapes) if self._fields is None else source in self._spans

    def _held_by(self, node: fx.Node) -> Span:
        return self._held[node] if node in self._held else _whole(self._shapes[node])

    def _part(self, node: fx.Node, span: Span) -> fx.Node:
        """Return the part ``span`` of a value."""
        held, known = self._held_by(node), self._slices.get((node, span))
        if held == span:
            return self._values[node]
        if known is not None and self._fields is not None:
            return known
        field = None if self._fields is None else self._fields[node]
        if field is not None and field.channels_last:
            raise _ChannelsLastError
        first = [span.first[i] - held.first[i] for i in (0, 1)]
        rows, columns = (slice(first[i], first[i] + span.size[i]) for i in (0, 1))
        index: Any = (..., rows, columns)
        self._slices[node, span] = self._graph.call_function(operator.getitem, (self._values[node], index))
        return self._slices[node, span]


def _without_padding(layer: nn.Module | None) -> nn.Module:
    assert isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    bare = copy.copy(layer)
    bare.padding = (0, 0) if isinstance(layer, nn.Conv2d) else 0
    if isinstance(bare, nn.Conv2d):
        bare.padding_mode = "zeros"
    return bare


def _change_nothing(node: fx.Node) -> None:
    """Let a step on a slice, which others may share, change nothing in place."""
    calm: dict[Any, Any] = {operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul}
    node.target = calm.get(node.target, node.target)
    if node.op == "call_method":
        node.target = str(node.target).rstrip("_")
