"""What one gradient of a node costs, relative to the whole network: counted in multiplications."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import fx, nn

from raygen.networks.graph.anatomy import Anatomy
from raygen.networks.graph.crop import Span, needed_spans
from raygen.networks.graph.tracing import module_of, result
from raygen.networks.network import Network


def layer_costs(network: Network, anatomy: Anatomy, classes: str | None) -> dict[str, float]:
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
        place = field.interior(sides, (shape[-2], shape[-1])) if field is not None and len(shape) == 4 else None
        if place is None or layer == classes:
            costs[layer] = _whole(counts, end) / whole
        else:
            spans = needed_spans(anatomy.traced, end, place, anatomy.fields, anatomy.shapes)
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
