"""Which input pixels a response of each value of a traced network sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from raygen.networks.graph.steps import Pair, Shapes, Window, is_channel_step, step_of
from raygen.networks.graph.tracing import Traced, module_of


@dataclass(frozen=True)
class Field:
    """The window of a response in the input: response i sees pixels first + i * jump to last + i * jump.

    Attributes:
        first, last: (row, column) of the corners for response (0, 0); outside the image where it sees padding.
        jump: (down, right) distance of neighbouring responses' windows, in pixels.
        channels_last: whether the value is (N, rows, columns, channels).
    """

    first: Pair = (0, 0)
    last: Pair = (0, 0)
    jump: Pair = (1, 1)
    channels_last: bool = False

    @property
    def size(self) -> Pair:
        """(height, width) in pixels."""
        return self.last[0] - self.first[0] + 1, self.last[1] - self.first[1] + 1

    def corner(self, position: Pair) -> Pair:
        """Return the first pixel, (row, column), that the response at ``position`` sees."""
        return self.first[0] + position[0] * self.jump[0], self.first[1] + position[1] * self.jump[1]

    def interior(self, image: Pair, map_size: Pair) -> Pair | None:
        """Return the response nearest to the map's centre that sees no padding; None where all see some."""
        row, column = (self._nearest(axis, image[axis], map_size[axis]) for axis in (0, 1))
        return None if row is None or column is None else (row, column)

    def _nearest(self, axis: int, image: int, side: int) -> int | None:
        first, last, jump = self.first[axis], self.last[axis], self.jump[axis]
        inside = [i for i in range(side) if first + i * jump >= 0 and last + i * jump < image]
        return min(inside, key=lambda i: abs(i - side // 2), default=None)


def receptive_fields(traced: Traced, shapes: Shapes) -> dict[fx.Node, Field | None]:
    """Return the field of every step, None where a response sees the whole input or it is not defined.

    Values without a grid, such as weights, have none and are no part of the result.
    """
    fields: dict[fx.Node, Field | None] = {}
    inputs = 0
    for node in traced.module.graph.nodes:
        if node.op == "placeholder":
            fields[node] = Field() if inputs == 0 else None
            inputs += 1
        elif step_of(traced.module, node, shapes) != "constant":
            fields[node] = _field(traced.module, node, fields, shapes)
    return fields


def whole_from(traced: Traced, fields: Mapping[fx.Node, Field | None]) -> dict[fx.Node, str]:
    """Return, of each value without a field, the step from which on a response needs the whole image, in words.

    Such a step pools over the map, joins values that do, or is none of those that are known here.
    """
    found: dict[fx.Node, str] = {}
    for node, field in fields.items():
        if field is None:
            earlier = (found[source] for source in node.all_input_nodes if source in found)
            found[node] = next(earlier, _place(node))
    return found


def _place(node: fx.Node) -> str:
    """Return the layer that ``node`` calls, or the function with the module that calls it."""
    if node.op in ("call_module", "get_attr"):
        return str(node.target)
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    name = getattr(node.target, "__name__", str(node.target)).strip("_")
    return f"{name} in {stack[-1]}" if stack else name


def _field(root: nn.Module, node: fx.Node, fields: Mapping[fx.Node, Field | None], shapes: Shapes) -> Field | None:
    sources = [fields[source] for source in node.all_input_nodes if source in fields]
    known = [source for source in sources if source is not None]
    step = step_of(root, node, shapes)
    if isinstance(step, Window):  # of a convolution written as a function, the weights are further sources
        given = fields.get(node.all_input_nodes[0])
        return None if given is None or given.channels_last else _through(given, step)
    if not known or len(known) < len(sources):
        return None
    if step in ("to_last", "to_first"):
        turns = known[0].channels_last != (step == "to_last")
        return Field(known[0].first, known[0].last, known[0].jump, step == "to_last") if turns else None
    if known[0].channels_last and is_channel_step(module_of(root, node)):
        return known[0]
    return _join(known) if step == "same" and _one_grid(node, shapes) else None


def _one_grid(node: fx.Node, shapes: Shapes) -> bool:
    sides = {shapes[source][-2:] for source in node.all_input_nodes if len(shapes.get(source, ())) >= 3}
    return len(sides - {(1, 1)}) <= 1


def _through(source: Field, step: Window) -> Field:
    first = tuple(source.first[i] - step.padding[i] * source.jump[i] for i in (0, 1))
    reach = tuple(step.dilation[i] * (step.kernel[i] - 1) - step.padding[i] for i in (0, 1))
    last = tuple(source.last[i] + reach[i] * source.jump[i] for i in (0, 1))
    jump = tuple(source.jump[i] * step.stride[i] for i in (0, 1))
    return Field((first[0], first[1]), (last[0], last[1]), (jump[0], jump[1]))


def _join(fields: Sequence[Field]) -> Field | None:
    """Return the hull of windows on one grid; None where the grids differ."""
    if len({(field.jump, field.channels_last) for field in fields}) > 1:
        return None
    first = tuple(min(field.first[i] for field in fields) for i in (0, 1))
    last = tuple(max(field.last[i] for field in fields) for i in (0, 1))
    return Field((first[0], first[1]), (last[0], last[1]), fields[0].jump, fields[0].channels_last)
