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
_MAX_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
_ARGUMENTS: dict[Callable[..., Any], tuple[str, ...]] = {
    F.max_pool2d: _MAX_POOL,
    torch.max_pool2d: _MAX_POOL,
    F.avg_pool2d: ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    F.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    F.pad: ("input", "pad", "mode", "value"),
}
"""The names of the arguments of the functions with a window."""

_MAX_POOLS = (F.max_pool2d, torch.max_pool2d)


def step_of(root: nn.Module, node: fx.Node, shapes: Shapes) -> Step:
    """Return what ``node`` does to the grid."""
    layer = module_of(root, node)
    if layer is not None:
        return _layer_step(layer)
    if has_window(node):
        return _function_step(node, shapes)
    if node.op == "get_attr":
        return "constant" if _spreads(shapes.get(node)) else None
    if node.target is torch.cat:
        return "same" if _joins_channels(node) else None
    if node.target in _FUNCTIONS or (node.op == "call_method" and node.target in _METHODS):
        return "same"
    return _reshape(node, shapes)


def _function_step(node: fx.Node, shapes: Shapes) -> Step:
    given = window_arguments(node)
    if node.target is F.pad:
        return (
            _padding(given.get("pad"))
            if given.get("mode", "constant") == "constant" and not given.get("value")
            else None
        )
    shape = shapes.get(given["weight"], ()) if node.target is F.conv2d else given["kernel_size"]
    stride = given.get("stride") or (1 if node.target is F.conv2d else shape)
    parts = (shape, stride, given.get("padding", 0), given.get("dilation", 1))
    if not all(_is_number(part) for part in parts):
        return None
    kernel, stride, padding, dilation = map(pair, (shape[-2:] if isinstance(shape, tuple) else shape, *parts[1:]))
    return Window(kernel, stride, padding, dilation)


def _is_number(value: object) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(part, int) for part in value)
    return isinstance(value, int)


def _padding(given: Any) -> Step:
    """Return the step of padding by (left, right, top, bottom, and so on of further dimensions)."""
    if not _is_number(given):
        return None
    sides = (given,) * 4 if isinstance(given, int) else tuple(given)
    left, _, top, _ = (*sides[:4], 0, 0, 0, 0)[:4]
    if not any(sides[:4]):
        return "same"
    return None if any(sides[4:]) else Window((1, 1), (1, 1), (top, left))


def _slice_step(index: tuple[Any, ...]) -> Step:
    numbers = [(part.start or 0, part.step or 1) for part in index[-2:]]
    if not all(isinstance(start, int) and isinstance(step, int) and start >= 0 for start, step in numbers):
        return None
    (top, down), (left, right) = numbers
    return Window((1, 1), (down, right), (-top, -left))


def _layer_step(layer: nn.Module) -> Step:
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return _window_of(layer) if is_plain(layer, nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d) else None
    if is_plain(layer, nn.ZeroPad2d):
        assert isinstance(layer, nn.ZeroPad2d)
        return _padding(layer.padding)
    if is_plain(layer, Permute):
        return _turn(layer)
    return "same" if _is_pointwise(layer) else None


def is_channel_step(layer: nn.Module | None) -> bool:
    """Say whether ``layer`` works on the last dimension alone: on channels, where they lie last."""
    return is_plain(layer, nn.Linear, nn.LayerNorm)


def pair(value: int | Sequence[int]) -> Pair:
    """Return (height, width) of a value given once for both or for each."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def window_arguments(node: fx.Node) -> dict[str, Any]:
    """Return by name the arguments of a function that has a window."""
    assert callable(node.target)
    return {**dict(zip(_ARGUMENTS[node.target], node.args, strict=False)), **node.kwargs}


def has_window(node: fx.Node) -> bool:
    """Say whether ``node`` calls a convolution, pooling or padding as a function."""
    return node.op == "call_function" and node.target in _ARGUMENTS


def takes_maximum(root: nn.Module, node: fx.Node) -> bool:
    """Say whether ``node`` is a maximum pooling, beyond whose edges nothing is the largest."""
    return isinstance(module_of(root, node), nn.MaxPool2d) or (has_window(node) and node.target in _MAX_POOLS)


def is_padding(root: nn.Module, node: fx.Node) -> bool:
    """Say whether ``node`` puts zeros around the map and does nothing else."""
    return isinstance(module_of(root, node), nn.ZeroPad2d) or (has_window(node) and node.target is F.pad)


def grid_slice(node: fx.Node) -> tuple[Any, ...] | None:
    """Return the index by which ``node`` takes some rows and columns, as ``x[:, :, ::2, ::2]``; None if it does not."""
    index: Any = node.args[1] if node.op == "call_function" and node.target is operator.getitem else None
    if not isinstance(index, tuple) or not all(part is Ellipsis or isinstance(part, slice) for part in index):
        return None
    return index if len(index) == 4 or (len(index) == 3 and index[0] is Ellipsis) else None


def fold_numbers(graph: fx.Graph, numbers: Mapping[str, Any]) -> None:
    """Write what a step's window is, where ``forward`` computes it from the size of a map, into the step.

    It holds for the whole image, and a crop must give what the whole image gives. A view keeps its sizes: they follow
    the batch.

    Args:
        graph: changed in place.
        numbers: by the names of the steps that give no tensor, what they give for one whole image.
    """

    def number(node: fx.Node) -> Any:
        return numbers.get(node.name, node)

    for node in graph.nodes:
        if has_window(node):
            node.args = node.args[:1] + fx.map_arg(node.args[1:], number)
            node.kwargs = {
                key: part if key == "input" else fx.map_arg(part, number) for key, part in node.kwargs.items()
            }
        elif (index := grid_slice(node)) is not None:
            node.args = (node.args[0], (*index[:-2], *fx.map_arg(index[-2:], number)))


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
    if name in _RESHAPES and kept and _keeps_grid(name, node, shapes):
        return "same"
    index = grid_slice(node)
    return None if index is None or len(shapes[node]) != 4 else _slice_step(index)


def _is_pointwise(layer: nn.Module) -> bool:
    if is_plain(layer, nn.Sequential):  # a shortcut is written as an empty one
        return not any(True for _ in layer.children())
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
