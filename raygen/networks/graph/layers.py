"""The layers of a network, as tables and node names show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from raygen.networks.graph.anatomy import Anatomy, Shape, examine, run_on_shapes
from raygen.networks.graph.plain import is_plain
from raygen.networks.graph.receptive import whole_from
from raygen.networks.graph.rewriting import Span, needed_spans
from raygen.networks.graph.tracer import leaf_modules
from raygen.networks.graph.tracing import Untraced, module_of, result
from raygen.networks.network import Network

_KINDS: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    ("conv", (nn.Conv2d,)),
    ("linear", (nn.Linear,)),
    ("relu", (nn.ReLU, nn.ReLU6)),
    ("pool", (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)),
)


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes:
        name: dotted name of the module.
        kind: "conv", "linear", "relu", "pool", "block" (several layers and a step that joins them), or the lower-cased
            class name of the module.
        channels: number of channels of its output.
        map_size: (height, width) of its output, None where it has no map.
        receptive_field: side of the square window that a response sees, in pixels (the longer side where it is not
            square); None where that is not defined or wider than the input.
        stride: distance of neighbouring responses' windows, in pixels; None where the receptive field is.
        is_classes: whether this is the last convolution or linear layer with as many channels as the network has class
            names.
        rectified: whether it ends with a ReLU; its nodes are scored before that unless asked otherwise.
        cost: of one gradient with the network cut and cropped to this layer, 1 being the whole network's; counted in
            the multiplications of convolutions and linear layers. None where it is not known. At full size the parts of
            late maps that one response does not need are still counted, though scores leave them out.
        uncropped: why a response is not computed from its receptive field alone: the step from which on it needs the
            whole image, or why the forward cannot be traced; empty where it is, and where there is no map.
    """

    name: str
    kind: str
    channels: int
    map_size: tuple[int, int] | None
    receptive_field: int | None
    stride: int | None
    is_classes: bool
    rectified: bool = False
    cost: float | None = None
    uncropped: str = ""


def list_layers(network: Network) -> tuple[Layer, ...]:
    """Return the layers that put out (N, C) or (N, C, H, W), in the order in which they first run.

    Blocks that end with a step of their own, such as a residual sum, stand where they end.
    """
    return layers_of(network, examine(network))


def layers_of(network: Network, examined: Anatomy | Untraced) -> tuple[Layer, ...]:
    """Return what :func:`list_layers` does, of a network that is examined already."""
    anatomy = examined if isinstance(examined, Anatomy) else None
    leaves = {name for name, _ in leaf_modules(network.module)}
    shapes = run_on_shapes(network.module, network.input_shape, _output_shapes)
    if anatomy is not None:
        shapes = _with_blocks(shapes, leaves, anatomy)
    modules = dict(network.module.named_modules())
    count = len(network.class_names)
    weighted = [name for name in shapes if isinstance(modules[name], nn.Conv2d | nn.Linear)]
    classes = next((name for name in reversed(weighted) if count and shapes[name][1] == count), None)
    windows = {} if anatomy is None else _windows(network, anatomy)
    costs = {} if anatomy is None else _layer_costs(network, anatomy, classes)
    whole = dict.fromkeys(shapes, _untraced(examined)) if isinstance(examined, Untraced) else _whole_from(examined)
    return tuple(
        Layer(
            name=name,
            kind=kind_of(modules[name]) if name in leaves else "block",
            channels=shape[1],
            map_size=(shape[2], shape[3]) if len(shape) == 4 else None,
            receptive_field=windows.get(name, (None, None))[0],
            stride=windows.get(name, (None, None))[1],
            is_classes=name == classes,
            rectified=is_plain(modules[name], nn.ReLU, nn.ReLU6) if name in leaves else _rectified(anatomy, name),
            cost=costs.get(name),
            uncropped=whole.get(name, "") if len(shape) == 4 and shape[2:] != (1, 1) else "",
        )
        for name, shape in shapes.items()
    )


def kind_of(module: nn.Module) -> str:
    """Return the kind of a layer, see :class:`Layer`."""
    return next((kind for kind, types in _KINDS if isinstance(module, types)), type(module).__name__.lower())


def _whole_from(anatomy: Anatomy) -> dict[str, str]:
    places = whole_from(anatomy.traced, anatomy.fields)
    return {name: f"from {places[node]} on" for name, node in anatomy.traced.ends.items() if node in places}


def _untraced(examined: Untraced) -> str:
    (line, *_) = examined.why.splitlines()
    return f"not traced: {line}"


def _rectified(anatomy: Anatomy | None, name: str) -> bool:
    return anatomy is not None and anatomy.rectified(name)


def _output_shapes(module: nn.Module, x: Tensor) -> dict[str, Shape]:
    """Run ``module`` and return the shapes of the layers' outputs."""
    shapes: dict[str, Shape] = {}
    # Between a permutation and its inverse (ConvNeXt) the channels lie last, and are none that a node can name.
    channels_last: list[Tensor] = []

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim not in (2, 4) or name in shapes:
            return
        if output.ndim == 4 and _moves_channels(module, inputs, output, channels_last):
            channels_last.append(output)
        else:
            shapes[name] = tuple(output.shape)

    handles = [layer.register_forward_hook(partial(note, name)) for name, layer in leaf_modules(module)]
    try:
        module(x)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _moves_channels(module: nn.Module, inputs: tuple[Any, ...], output: Tensor, channels_last: list[Tensor]) -> bool:
    if type(module) is nn.LayerNorm or isinstance(module, nn.Linear):
        return True
    follows = any(given is known for given in inputs for known in channels_last)
    # A layer that keeps the order keeps the shape; a permutation does not.
    if type(module).__name__ == "Permute":
        return not follows
    return follows and output.shape == inputs[0].shape


def _with_blocks(shapes: Mapping[str, Shape], leaves: Set[str], anatomy: Anatomy) -> dict[str, Shape]:
    """Return the shapes with those of blocks among them, in the order of the graph; layers that it lacks come last."""
    ends = anatomy.traced.ends
    rank = {node: index for index, node in enumerate(anatomy.traced.module.graph.nodes)}
    known = dict(shapes)
    for name, node in ends.items():
        field = anatomy.fields.get(node)
        moved = field is not None and field.channels_last
        if name not in leaves and not moved and len(anatomy.shapes.get(node, ())) in (2, 4):
            known[name] = anatomy.shapes[node]
    order = sorted(known, key=lambda name: rank[ends[name]] if name in ends else len(rank))
    return {name: known[name] for name in order}


def _windows(network: Network, anatomy: Anatomy) -> dict[str, tuple[int, int]]:
    sides = network.input_shape[1:]
    fields = {name: anatomy.fields.get(node) for name, node in anatomy.traced.ends.items()}
    return {
        name: (max(field.size), max(field.jump))
        for name, field in fields.items()
        if field is not None and field.size[0] <= sides[0] and field.size[1] <= sides[1]
    }


def _layer_costs(network: Network, anatomy: Anatomy, classes: str | None) -> dict[str, float]:
    """Return the cost of a gradient with the network cut after each layer and cropped where :func:`cut_network` can.

    A gradient goes through each convolution and linear layer once forth and once back, with the same count of
    multiplications; other steps are not counted.

    Args:
        network: what is cut.
        anatomy: of this network.
        classes: the layer that holds the classes, which is never cropped.
    """
    counts = _counts(anatomy)
    last = result(anatomy.traced.module.graph)
    if not isinstance(last, fx.Node) or not counts:
        return {}
    whole = _whole(counts, last)
    sides = network.input_shape[1], network.input_shape[2]
    costs = {}
    for layer in anatomy.traced.ends:
        end = anatomy.end(layer)
        field, shape = anatomy.fields.get(end), anatomy.shapes.get(end, ())
        position = field.interior(sides, (shape[-2], shape[-1])) if field is not None and len(shape) == 4 else None
        if position is None or layer == classes:
            costs[layer] = _whole(counts, end) / whole
        else:
            spans = needed_spans(anatomy.traced, end, position, anatomy.fields, anatomy.shapes)
            costs[layer] = _cropped(counts, spans, anatomy) / whole
    return costs


def _counts(anatomy: Anatomy) -> dict[fx.Node, int]:
    """Return the multiplications of one forward pass through each convolution and linear layer, at full size."""
    counts = {}
    for node, shape in anatomy.shapes.items():
        layer = module_of(anatomy.traced.module, node)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            counts[node] = math.prod(shape) * math.prod(layer.weight.shape[1:])
    return counts


def _whole(counts: Mapping[fx.Node, int], last: fx.Node) -> int:
    seen, waiting = {last}, [last]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return sum(counts.get(node, 0) for node in seen)


def _cropped(counts: Mapping[fx.Node, int], spans: Mapping[fx.Node, Span], anatomy: Anatomy) -> float:
    total = 0.0
    for node, span in spans.items():
        if node in counts:
            shape, field = anatomy.shapes[node], anatomy.fields[node]
            sides = shape[1:3] if field is not None and field.channels_last else shape[2:4]
            total += counts[node] * math.prod(span.size) / math.prod(sides)
    return total
