"""A module as a graph of its leaf modules and functions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torchvision
from torch import fx, nn


def is_leaf(module: nn.Module) -> bool:
    """Say whether ``module`` is one layer: it has no children, or is torch's own and not a container."""
    return not any(True for _ in module.children()) or _torch_layer(module)


def leaf_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield dotted name and module of every layer, a shared one under the first of its names, as torch.fx does."""
    inner: set[str] = set()
    for path, child in module.named_modules():
        if path == "" or path in inner:
            continue
        if is_leaf(child):
            inner.update(f"{path}.{name}" for name, _ in child.named_modules() if name)
            yield path, child


class _Tracer(fx.Tracer):
    """torch.fx's tracer, with the leaves of :func:`leaf_modules` and torchvision's operators as single steps."""

    def __init__(self) -> None:
        super().__init__(autowrap_modules=(math, torchvision.ops))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m)


def trace(module: nn.Module) -> fx.GraphModule | None:
    """Return ``module`` as a graph that shares its layers, or None where its forward cannot be traced.

    Control flow that depends on the input's values or shape cannot.
    """
    try:
        graph = _Tracer().trace(module)
        return fx.GraphModule(module, graph)
    except Exception:  # the forward is the user's code, called with proxies: it may raise anything
        return None


def result(graph: fx.Graph) -> Any:
    """Return what the graph's output node gives out: a node, or a nested container of nodes."""
    return next(node for node in reversed(graph.nodes) if node.op == "output").args[0]


def module_of(root: nn.Module, node: fx.Node) -> nn.Module | None:
    """Return the layer that ``node`` calls, or None where it calls no module."""
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def _torch_layer(module: nn.Module) -> bool:
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    own = type(module).__module__.startswith(("torch.nn.", "torch.ao.nn."))
    return own and not isinstance(module, containers)
