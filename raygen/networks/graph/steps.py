"""What each step of a traced network does to the grid of its map."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import Permute, StochasticDepth

from raygen.networks.graph.plain import is_plain
from raygen.networks.graph.tracing import module_of

Pair = tuple[int, int]
Shapes = Mapping[fx.Node, tuple[int, ...]]


@dataclass(frozen=True)
class Window:
    """A convolution or pooling: response i sees inputs i * stride - padding + dilation * (0 .. kernel - 1)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)


Step = Window | Literal["same", "constant", "to_last", "to_first"] | None
"""A window; "same": response i depends on the inputs' i alone; "constant": a value without a grid, such as a weight;
"to_last", "to_first": the channels go behind the map, and back; None: anything else."""

_POINTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
    nn.Dropout, nn.Dropout2d, nn.BatchNorm2d, nn.LocalResponseNorm, nn.ChannelShuffle, LayerNorm2d, StochasticDepth,
)  # fmt: skip
_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    F.relu, F.relu_, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.hardtanh,
    F.dropout, F.dropout2d, F.local_response_norm, torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.clamp,
    torch.cat, torch.add, torch.sub, torch.mul, operator.add, operator.iadd, operator.sub, operator.isub,
    operator.mul, operator.imul, operator.truediv, operator.neg,
)  # fmt: skip
_METHODS = (
    "relu", "relu_", "sigmoid", "tanh", "contiguous", "clone", "add", "add_", "mul", "mul_", "clamp", "clamp_",
)  # fmt: skip
# These keep the map where the last two sides stay what they were.
_RESHAPES = ("view", "reshape", "transpose", "chunk", "split", "getitem", "flatten", "unsqueeze", "squeeze")
POOLS: dict[Callable[..., Any], tuple[str, ...]] = {
    F.max_pool2d: ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    torch.max_pool2d: ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    F.avg_pool2d: ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
}


def step_of(root: nn.Module, node: fx.Node, shapes: Shapes) -> Step:
    """Return what ``node`` does to the grid."""
    layer = module_of(root, node)
    if layer is not None:
        return _layer_step(layer)
    if is_pool(node):
        given = pool_arguments(node)
        kernel = pair(given["kernel_size"])
        stride = pair(given.get("stride") or kernel)
        return Window(kernel, stride, pair(given.get("padding", 0)), pair(given.get("dilation", 1)))
    if node.op == "get_attr":
        return "constant" if _spreads(shapes.get(node)) else None
    if node.target is torch.cat:
        return "same" if _joins_channels(node) else None
    if node.target in _FUNCTIONS or (node.op == "call_method" and node.target in _METHODS):
        return "same"
    return _reshape(node, shapes)


def _layer_step(layer: nn.Module) -> Step:
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return _window_of(layer) if is_plain(layer, nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d) else None
    if is_plain(layer, Permute):
        return _turn(layer)
    return "same" if _is_pointwise(layer) else None


def is_channel_step(layer: nn.Module | None) -> bool:
    """Say whether ``layer`` works on the last dimension alone: on channels, where they lie last."""
    return is_plain(layer, nn.Linear, nn.LayerNorm)


def pair(value: int | Sequence[int]) -> Pair:
    """Return (height, width) of a value given once for both or for each."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def pool_arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a functional pooling by name."""
    assert callable(node.target)
    return {**dict(zip(POOLS[node.target], node.args, strict=False)), **node.kwargs}


def is_pool(node: fx.Node) -> bool:
    """Say whether ``node`` calls a pooling function."""
    return node.op == "call_function" and node.target in POOLS


def _window_of(layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> Window:
    kernel, stride = pair(layer.kernel_size), pair(layer.stride)
    dilation = (1, 1) if isinstance(layer, nn.AvgPool2d) else pair(layer.dilation)
    if layer.padding == "same":  # torch puts the odd pixel behind
        return Window(kernel, stride, _half(kernel, dilation), dilation)
    return Window(kernel, stride, (0, 0) if isinstance(layer.padding, str) else pair(layer.padding), dilation)


def _half(kernel: Pair, dilation: Pair) -> Pair:
    return dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2


def _reshape(node: fx.Node, shapes: Shapes) -> Step:
    name = getattr(node.target, "__name__", str(node.target))
    sources = [source for source in node.all_input_nodes if source in shapes]
    if node not in shapes:  # a size, or a number made of sizes
        return "constant"
    kept = len(sources) == 1 and shapes[sources[0]][-2:] == shapes[node][-2:] and len(shapes[sources[0]]) >= 3
    return "same" if name in _RESHAPES and kept and _keeps_grid(name, node, shapes) else None


def _is_pointwise(layer: nn.Module) -> bool:
    if not is_plain(layer, *_POINTWISE):
        return False
    # Without running statistics, or in training, a response depends on the whole map and on the other images.
    return not isinstance(layer, nn.BatchNorm2d) or (layer.running_mean is not None and not layer.training)


def _joins_channels(node: fx.Node) -> bool:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    return dim in (1, -3)


def _keeps_grid(name: str, node: fx.Node, shapes: Shapes) -> bool:
    """Say whether a reshaping that keeps the last two sides also keeps what lies where on them."""
    source = node.all_input_nodes[0]
    rank = len(shapes[source])
    if name == "transpose":
        named = [*node.args[1:], *(node.kwargs[key] for key in ("dim0", "dim1") if key in node.kwargs)]
        return all(isinstance(dim, int) and dim % rank < rank - 2 for dim in named)
    if name != "getitem":
        return True
    index = node.args[1]
    if isinstance(index, int) and len(shapes[node]) == rank:  # a part of a tuple
        return getattr(source.target, "__name__", source.target) in ("chunk", "split")
    taken = index if isinstance(index, tuple) else (index,)
    leading = sum(part is not None and part is not Ellipsis for part in taken) <= rank - 2 and Ellipsis not in taken
    lists = [part for part in taken if isinstance(part, list)]  # channels in another order; beside a number it moves
    known = all(part is None or isinstance(part, int | slice | list) for part in taken)
    return leading and known and (not lists or (len(lists) == 1 and not any(isinstance(part, int) for part in taken)))


def _turn(layer: nn.Module) -> Step:
    order = tuple(getattr(layer, "dims", ()))
    if order == (0, 2, 3, 1):
        return "to_last"
    return "to_first" if order == (0, 3, 1, 2) else None


def _spreads(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and (len(shape) == 0 or shape[-2:] == (1, 1))
