"""A cut at full size, without what one response of its map does not need; padding included, so for any place."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from raygen.networks.graph.crop import Span
from raygen.networks.graph.shapes import Shape, graph_shapes
from raygen.networks.graph.steps import Pair, Window, step_of
from raygen.networks.graph.tracing import module_of, result


def trim_graph(module: fx.GraphModule, input_shape: tuple[int, int, int], place: Pair) -> fx.GraphModule:
    """Return a copy of ``module`` that computes its response at ``place`` alone: (N, C, 1, 1) from the whole input.

    Every convolution and pooling on the way computes what that needs and no more; steps that are not understood, and
    what leads to them, stay whole. The response and its gradient stay the same up to round-off.

    Args:
        module: a cut's graph, with a map for its result; not changed.
        input_shape: (C, h, w).
        place: (row, column) on that map.
    """
    shapes = graph_shapes(module, input_shape)
    last = result(module.graph)
    spans = _spans(module, last, place, shapes)
    return _Writer(module, spans, shapes).write(last, Span(place, place))


def _whole(shape: Shape) -> Span:
    return Span((0, 0), (shape[-2] - 1, shape[-1] - 1))


def _spans(module: fx.GraphModule, last: fx.Node, place: Pair, shapes: Mapping[fx.Node, Shape]) -> dict[fx.Node, Span]:
    """Return which part of each map is needed, in the whole map's rows and columns."""
    spans = {last: Span(place, place)}
    for node in reversed(module.graph.nodes):
        if node.op == "output":
            continue
        step = step_of(module, node, shapes)
        if node in spans and not _divides(module, node, spans[node], step, shapes):
            spans[node] = _whole(shapes[node])
        for source in node.all_input_nodes:
            if len(shapes.get(source, ())) == 4:
                asked = _asked(node, source, step, spans, shapes)
                spans[source] = spans[source].hull(asked) if source in spans else asked
    return spans


def _asked(
    node: fx.Node, source: fx.Node, step: Any, spans: Mapping[fx.Node, Span], shapes: Mapping[fx.Node, Shape]
) -> Span:
    whole = _whole(shapes[source])
    if node not in spans or spans[node] == _whole(shapes[node]):
        return whole
    if isinstance(step, Window):
        return _within(spans[node].through(step), whole)
    return spans[node] if _fits(source, node, shapes) else whole


def _divides(module: nn.Module, node: fx.Node, span: Span, step: Any, shapes: Mapping[fx.Node, Shape]) -> bool:
    """Say whether a part of the value of ``node`` can be computed from parts of its sources."""
    maps = [source for source in node.all_input_nodes if source in shapes]
    if isinstance(step, Window):
        layer = module_of(module, node)
        asked = span.through(step)
        given = _within(asked, _whole(shapes[maps[0]]))
        inside = given == asked
        zeros = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros"
        # A window may lie in the padding altogether.
        return layer is not None and min(given.size) > 0 and (inside or zeros or isinstance(layer, nn.MaxPool2d))
    if step != "same" or len(maps) < len(node.all_input_nodes):  # without a shape are sizes, which hold for the whole
        return False
    spread = all(len(shapes[source]) == 0 or shapes[source][-2:] == (1, 1) or _fits(source, node, shapes)
                 for source in maps)  # fmt: skip
    return spread and any(_fits(source, node, shapes) for source in maps)


def _fits(source: fx.Node, node: fx.Node, shapes: Mapping[fx.Node, Shape]) -> bool:
    parts = getattr(source.target, "__name__", source.target) in ("chunk", "split")
    return not parts and len(shapes[source]) == 4 and shapes[source][-2:] == shapes[node][-2:]


def _within(span: Span, whole: Span) -> Span:
    first = max(span.first[0], 0), max(span.first[1], 0)
    return Span(first, (min(span.last[0], whole.last[0]), min(span.last[1], whole.last[1])))


class _Writer:
    def __init__(self, module: fx.GraphModule, spans: Mapping[fx.Node, Span], shapes: Mapping[fx.Node, Shape]) -> None:
        self._module = module
        self._spans = spans
        self._shapes = shapes
        self._graph = fx.Graph()
        self._values: dict[fx.Node, fx.Node] = {}
        self._held: dict[fx.Node, Span] = {}
        self._layers: dict[str, nn.Module] = {}

    def write(self, last: fx.Node, place: Span) -> fx.GraphModule:
        for node in self._module.graph.nodes:
            if node.op != "output":
                self._values[node] = self._copy(node)
        self._graph.output(self._part(last, place))
        root = copy.deepcopy(self._module)
        for name, layer in self._layers.items():
            root.add_module(name, layer)
        # The constructor takes only the layers that the graph calls.
        return fx.GraphModule(root, self._graph).eval()

    def _copy(self, node: fx.Node) -> fx.Node:
        span = self._spans.get(node)
        if span is not None:
            self._held[node] = _whole(self._shapes[node]) if node.op == "placeholder" else span
        if span is None or node.op == "placeholder" or span == _whole(self._shapes[node]):
            return self._graph.node_copy(node, lambda source: self._part(source, None))
        step = step_of(self._module, node, self._shapes)
        if isinstance(step, Window):
            return self._window(node, span.through(step))
        new = self._graph.node_copy(node, lambda source: self._part(source, self._spread(source, node, span)))
        new.target = _CALM.get(new.target, new.target)
        return new

    def _spread(self, source: fx.Node, node: fx.Node, span: Span) -> Span | None:
        return span if _fits(source, node, self._shapes) else None

    def _window(self, node: fx.Node, asked: Span) -> fx.Node:
        layer = copy.deepcopy(module_of(self._module, node))
        (source,) = node.all_input_nodes
        given = _within(asked, _whole(self._shapes[source]))
        part = self._part(source, given)
        edges = tuple(
            size
            for axis in (1, 0)
            for size in (given.first[axis] - asked.first[axis], asked.last[axis] - given.last[axis])
        )
        assert isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
        if any(edges):
            outside = -math.inf if isinstance(layer, nn.MaxPool2d) else 0.0
            part = self._graph.call_function(F.pad, (part, edges, "constant", outside))
        layer.padding = (0, 0) if isinstance(layer, nn.Conv2d) else 0
        name = f"trimmed_{len(self._layers)}"
        self._layers[name] = layer
        return self._graph.call_module(name, (part,))

    def _part(self, node: fx.Node, span: Span | None) -> fx.Node:
        """Return the part ``span`` of a value, or the whole."""
        value, held = self._values[node], self._held.get(node)
        if held is None:
            return value
        wanted = _whole(self._shapes[node]) if span is None else span
        if held == wanted:
            return value
        first = [wanted.first[i] - held.first[i] for i in (0, 1)]
        rows, columns = (slice(first[i], first[i] + wanted.size[i]) for i in (0, 1))
        index: Any = (..., rows, columns)
        return self._graph.call_function(operator.getitem, (value, index))


# On a slice, which others may share, nothing is changed in place.
_CALM: dict[Any, Any] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    "add_": "add", "mul_": "mul", "relu_": "relu",
}  # fmt: skip
