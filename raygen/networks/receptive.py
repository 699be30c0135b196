"""Receptive fields: how many input pixels a response sees, and how far apart neighbours see."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import StochasticDepth

from raygen.networks.tracing import module_of

Pair = tuple[int, int]


@dataclass(frozen=True)
class Field:
    """The window of a response in the input.

    Attributes:
        size: (height, width) in pixels.
        jump: (down, right) distance of neighbouring responses' windows, in pixels.
        plain: whether only one path leads here, of steps that :func:`without_padding` can handle.
    """

    size: Pair = (1, 1)
    jump: Pair = (1, 1)
    plain: bool = True


_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_POINTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
    nn.Dropout, nn.Dropout2d, nn.BatchNorm2d, nn.LocalResponseNorm, LayerNorm2d, StochasticDepth,
)  # fmt: skip
_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.dropout, F.dropout2d,
    torch.relu, torch.relu_, torch.sigmoid, torch.tanh,
)  # fmt: skip
_METHODS = ("relu", "relu_", "sigmoid", "tanh", "contiguous", "clone", "add", "add_", "mul", "mul_")
# Where paths meet, or channels are picked: the widest of them.
_JOINS = (
    torch.cat, torch.add, torch.mul, operator.add, operator.iadd, operator.mul, operator.imul,
    operator.getitem, torch.unsqueeze,
)  # fmt: skip
POOLS: dict[Callable[..., Any], tuple[str, ...]] = {
    F.max_pool2d: ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    torch.max_pool2d: ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    F.avg_pool2d: ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
}


def receptive_fields(graph: fx.GraphModule) -> dict[fx.Node, Field | None]:
    """Return the receptive field of every node, None where a response sees the whole input or it is not defined."""
    fields: dict[fx.Node, Field | None] = {}
    for node in graph.graph.nodes:
        fields[node] = Field() if node.op == "placeholder" else _field(graph, node, fields)
    return fields


def pair(value: int | Sequence[int]) -> Pair:
    """Return (height, width) of a value given once for both or for each."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def pool_arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a functional pooling by name."""
    return {**dict(zip(POOLS[_function(node)], node.args, strict=False)), **node.kwargs}


def is_pool(node: fx.Node) -> bool:
    """Say whether ``node`` calls a pooling function."""
    return node.op == "call_function" and node.target in POOLS


def _function(node: fx.Node) -> Callable[..., Any]:
    assert callable(node.target)
    return node.target


def _field(root: nn.Module, node: fx.Node, fields: Mapping[fx.Node, Field | None]) -> Field | None:
    sources = [fields[source] for source in node.all_input_nodes]
    known = [source for source in sources if source is not None]
    if not sources or len(known) < len(sources):
        return None
    layer = module_of(root, node)
    if isinstance(layer, _WINDOWS):
        dilation = () if isinstance(layer, nn.AvgPool2d) else (layer.dilation,)
        return _step(known[0], layer.kernel_size, layer.stride, *dilation)
    if is_pool(node):
        given = pool_arguments(node)
        stride = given.get("stride") or given["kernel_size"]
        return _step(known[0], given["kernel_size"], stride, given.get("dilation", 1))
    if type(layer) in _POINTWISE or node.target in _FUNCTIONS or (node.op == "call_method" and node.target in _METHODS):
        return known[0] if len(known) == 1 else _join(known)
    return _join(known) if node.target in _JOINS else None


def _step(source: Field, kernel: Any, stride: Any, dilation: Any = 1) -> Field:
    kernel, stride, dilation = pair(kernel), pair(stride), pair(dilation)
    size = tuple(source.size[i] + dilation[i] * (kernel[i] - 1) * source.jump[i] for i in (0, 1))
    jump = tuple(source.jump[i] * stride[i] for i in (0, 1))
    return Field((size[0], size[1]), (jump[0], jump[1]), source.plain)


def _join(fields: Sequence[Field]) -> Field:
    size, jump = ([max(getattr(field, name)[i] for field in fields) for i in (0, 1)] for name in ("size", "jump"))
    return Field((size[0], size[1]), (jump[0], jump[1]), plain=False)
