"""The layers of a network, as tables and node names show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raygen.networks.network import Network
from raygen.networks.receptive import receptive_fields
from raygen.networks.tracing import leaf_modules, trace

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
        kind: "conv", "linear", "relu", "pool", or the lower-cased class name of the module.
        channels: number of channels of its output.
        map_size: (height, width) of its output, None where it has no map.
        receptive_field: side of the square window that a response sees, in pixels (the longer side where it is not
            square); None where that is not defined or wider than the input.
        stride: distance of neighbouring responses' windows, in pixels; None where the receptive field is.
        is_classes: whether this is the last convolution or linear layer with as many channels as the network has class
            names.
    """

    name: str
    kind: str
    channels: int
    map_size: tuple[int, int] | None
    receptive_field: int | None
    stride: int | None
    is_classes: bool


def list_layers(network: Network) -> tuple[Layer, ...]:
    """Return the layers that put out (N, C) or (N, C, H, W), in the order in which they first run."""
    shapes = _output_shapes(network)
    modules = dict(leaf_modules(network.module))
    windows = _windows(network)
    count = len(network.class_names)
    weighted = [name for name in shapes if isinstance(modules[name], nn.Conv2d | nn.Linear)]
    classes = next((name for name in reversed(weighted) if count and shapes[name][1] == count), None)
    return tuple(
        Layer(
            name=name,
            kind=kind_of(modules[name]),
            channels=shape[1],
            map_size=(shape[2], shape[3]) if len(shape) == 4 else None,
            receptive_field=windows.get(name, (None, None))[0],
            stride=windows.get(name, (None, None))[1],
            is_classes=name == classes,
        )
        for name, shape in shapes.items()
    )


def kind_of(module: nn.Module) -> str:
    """Return the kind of a layer, see :class:`Layer`."""
    return next((kind for kind, types in _KINDS if isinstance(module, types)), type(module).__name__.lower())


def _output_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    # Between a permutation and its inverse (ConvNeXt) the channels lie last, and are none that a node can name.
    channels_last: list[Tensor] = []

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim not in (2, 4) or name in shapes:
            return
        if output.ndim == 4 and _moves_channels(module, inputs, output, channels_last):
            channels_last.append(output)
        else:
            shapes[name] = tuple(output.shape)

    handles = []
    try:
        for name, module in leaf_modules(network.module):
            hook = lambda module, inputs, output, name=name: note(name, module, inputs, output)  # noqa: E731
            handles.append(module.register_forward_hook(hook))
        like = next(network.module.parameters(), torch.zeros(()))
        with torch.no_grad():
            network.module(torch.zeros(1, *network.input_shape, dtype=like.dtype, device=like.device))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _moves_channels(module: nn.Module, inputs: tuple[Any, ...], output: Tensor, channels_last: list[Tensor]) -> bool:
    if type(module) is nn.LayerNorm or isinstance(module, nn.Linear):
        return True
    follows = any(given is known for given in inputs for known in channels_last)
    # A permutation is told from a layer that keeps the order by the shape.
    if type(module).__name__ == "Permute":
        return not follows
    return follows and output.shape == inputs[0].shape


def _windows(network: Network) -> dict[str, tuple[int | None, int | None]]:
    graph = trace(network.module)
    windows: dict[str, tuple[int | None, int | None]] = {}
    if graph is None:
        return windows
    sides = network.input_shape[1:]
    for node, field in receptive_fields(graph).items():
        if node.op == "call_module" and str(node.target) not in windows:
            fits = field is not None and field.size[0] <= sides[0] and field.size[1] <= sides[1]
            known = (max(field.size), max(field.jump)) if field is not None and fits else (None, None)
            windows[str(node.target)] = known
    return windows
