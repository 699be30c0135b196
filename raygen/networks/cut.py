"""A network cut after a layer, and cropped to what one response of that layer sees."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from raygen.errors import NetworkError, NodeError, closest
from raygen.networks.layers import kind_of, list_layers
from raygen.networks.network import Network
from raygen.networks.receptive import Field, is_pool, pool_arguments, receptive_fields
from raygen.networks.tracing import module_of, trace


@dataclass(frozen=True)
class Cut:
    """What leads from the input to one layer, and nothing above it.

    Attributes:
        layer: dotted name of the layer.
        module: maps (N, C, h, w) to the layer's response, (N, channels) or (N, channels, rows, columns). Of a ReLU
            the response is its *input*, else dead units have no gradient. Frozen, in evaluation mode, private.
        input_shape: (C, h, w).
        map_size: (rows, columns) of the response, None where it has no map.
        channels: number of channels of the response.
        is_classes: whether the channels are the network's classes.
        cropped: whether (h, w) is the receptive field of one response, without padding.
    """

    layer: str
    module: nn.Module
    input_shape: tuple[int, int, int]
    map_size: tuple[int, int] | None
    channels: int
    is_classes: bool
    cropped: bool


def cut_network(network: Network, layer: str, *, crop: bool = True) -> Cut:
    """Cut ``network`` after ``layer``; the network is not changed.

    With ``crop``, a layer with a map that a plain chain of convolutions, poolings and pointwise steps leads to is cut
    down to its receptive field, with every padding set to 0: then the response is 1x1, and equals the response of the
    whole network wherever that sees no padding. Where paths branch, where the layer holds the classes, or where the
    field is wider than the input, the input keeps its full size.

    Raises:
        NodeError: if there is no such layer.
    """
    layers = {known.name: known for known in list_layers(network)}
    if layer not in layers:
        raise NodeError(f"unknown layer {layer!r}", where=f"network {network.name}", right=closest(layer, layers))
    is_classes = layers[layer].is_classes
    module, field = _cut_graph(network.module, layer)
    shape = network.input_shape
    cropped = crop and not is_classes and _can_crop(field, network, layers[layer].map_size)
    if cropped and field is not None:
        _drop_padding(module)
        shape = (shape[0], *field.size)
    output = _response_shape(module, shape, layer)
    map_size = (output[2], output[3]) if len(output) == 4 else None
    return Cut(layer, module, shape, map_size, output[1], is_classes, cropped)


class StopAt(nn.Module):
    """A whole network whose forward ends at one layer: for networks that cannot be traced.

    Args:
        network: private to this module.
        layer: dotted name of the layer.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network = network
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's response; the hook that ends the forward is gone afterwards."""
        module = self.network.get_submodule(self.layer)
        if kind_of(module) == "relu":
            handle = module.register_forward_pre_hook(lambda _, inputs: _stop(inputs[0]))
        else:
            handle = module.register_forward_hook(lambda _, inputs, output: _stop(output))
        try:
            self.network(x)
        except _ReachedError as reached:
            return reached.response
        finally:
            handle.remove()
        raise NetworkError("the layer did not run", where=f"layer {self.layer}", right="name a layer that runs")


class _ReachedError(Exception):
    def __init__(self, response: Tensor) -> None:
        super().__init__()
        self.response = response


def _stop(response: Tensor) -> None:
    raise _ReachedError(response)


def _cut_graph(module: nn.Module, layer: str) -> tuple[nn.Module, Field | None]:
    traced = trace(module)
    nodes = [] if traced is None else list(traced.graph.nodes)
    last = next((node for node in nodes if node.op == "call_module" and node.target == layer), None)
    if traced is None or last is None:
        return StopAt(copy.deepcopy(module), layer).eval(), None
    if kind_of(module.get_submodule(layer)) == "relu":
        last = last.all_input_nodes[0]
    field = receptive_fields(traced)[last]
    return end_graph(traced, last), field


def end_graph(traced: fx.GraphModule, last: fx.Node) -> fx.GraphModule:
    """Return a copy of ``traced`` that ends with the value of ``last``, without the layers that this does not need."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    needed = {last}
    for node in reversed(traced.graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    for node in traced.graph.nodes:
        if node in needed or node.op == "placeholder":
            values[node] = graph.node_copy(node, lambda source: values[source])
    graph.output(values[last])
    # The constructor takes only the layers that the graph calls.
    return copy.deepcopy(fx.GraphModule(traced, graph)).eval()


def _can_crop(field: Field | None, network: Network, map_size: tuple[int, int] | None) -> bool:
    if field is None or not field.plain or map_size is None:
        return False
    sides = network.input_shape[1:]
    return field.size[0] <= sides[0] and field.size[1] <= sides[1]


def _drop_padding(module: nn.Module) -> None:
    assert isinstance(module, fx.GraphModule)
    for node in module.graph.nodes:
        layer = module_of(module, node)
        if isinstance(layer, nn.Conv2d):
            layer.padding, layer.padding_mode = (0, 0), "zeros"
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            layer.padding = 0
        elif is_pool(node):
            given: dict[str, Any] = pool_arguments(node)
            node.args = (given.pop("input"),)
            node.kwargs = {**given, "padding": 0}
    module.recompile()


def _response_shape(module: nn.Module, shape: tuple[int, int, int], layer: str) -> tuple[int, ...]:
    like = next(module.parameters(), torch.zeros(()))
    with torch.no_grad():
        return tuple(module(torch.zeros(1, *shape, dtype=like.dtype, device=like.device)).shape)
