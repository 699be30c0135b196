"""A module as a graph of its leaf modules and functions, with the value that each layer puts out."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from raygen.networks.graph.plain import copy_module, has_hooks, is_plain
from raygen.networks.graph.tracer import Tracer, functions_kept

_IN_PLACE: tuple[Callable[..., Any], ...] = (
    operator.iadd, operator.isub, operator.imul, operator.itruediv, torch.relu_, F.relu_, F.leaky_relu_, F.elu_,
)  # fmt: skip
_RELU_FUNCTIONS: tuple[Callable[..., Any], ...] = (F.relu, F.relu_, F.relu6, torch.relu, torch.relu_)


@dataclass(frozen=True)
class Traced:
    """A traced network.

    Attributes:
        module: the graph; it shares its layers with the module that was traced. No value is used after a step has
            changed it in place: what the step returns is used instead.
        ends: by dotted name the node that puts out a layer's response the first time that it runs: of every layer,
            and of every block (a module made of others) that ends with a step of its own, such as a sum.
        opened: the user's layers whose own forward is part of the graph, step by step.
    """

    module: fx.GraphModule
    ends: dict[str, fx.Node]
    opened: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Untraced:
    """A module that is no graph: ``why``, in words for the user."""

    why: str


def trace(module: nn.Module, input_shape: tuple[int, ...]) -> Traced | Untraced:
    """Return ``module`` as a graph, or why its forward cannot be traced, see :class:`Tracer`.

    A graph would lose what hooks do, so a module with hooks is run as it is.

    Args:
        module: a network; not changed.
        input_shape: (C, h, w) of the whole image.
    """
    if any(map(has_hooks, module.modules())):
        return Untraced("it has hooks")
    tracer = Tracer(input_shape)
    try:
        with _unchanged(module), functions_kept(tracer):
            traced = fx.GraphModule(module, tracer.trace(module, _defaults(module)))
    except Exception as error:  # the forward is the user's code, called with proxies: it may raise anything
        return Untraced(f"{type(error).__name__}: {error}")
    _keep_input(traced)
    _follow_in_place(traced)
    return Traced(traced, tracer.ends, frozenset(tracer.opened))


def end_graph(traced: fx.GraphModule, last: fx.Node) -> fx.GraphModule:
    """Return a copy of ``traced`` that ends with the value of ``last``, without the layers that this does not need."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(traced.graph, values)
    graph.output(values[last])
    drop_dead(graph)
    # The constructor takes only the layers that the graph calls.
    return copy_module(fx.GraphModule(traced, graph)).eval()


def drop_dead(graph: fx.Graph) -> None:
    """Take all steps out of ``graph`` that its output does not need; what they change in place is not looked at."""
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))


def result(graph: fx.Graph) -> Any:
    """Return what the graph's output node gives out: a node, or a nested container of nodes."""
    return next(node for node in reversed(graph.nodes) if node.op == "output").args[0]


def module_of(root: nn.Module, node: fx.Node) -> nn.Module | None:
    """Return the layer that ``node`` calls, or None where it calls no module."""
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_relu(root: nn.Module, node: fx.Node) -> bool:
    """Say whether ``node`` is a ReLU: a layer, a function or a method."""
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return is_plain(module_of(root, node), nn.ReLU, nn.ReLU6) or node.target in _RELU_FUNCTIONS


def _defaults(module: nn.Module) -> dict[str, Any]:
    """Return what a forward takes besides the image, such as ``mask=None``, as a call with the image alone has it."""
    rest = list(inspect.signature(module.forward).parameters.values())[1:]
    return {part.name: part.default for part in rest if part.default is not part.empty}


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Take back what a forward that is traced leaves on its modules, such as the proxy of a feature."""
    before = [(part, dict(vars(part)), dict(part._buffers)) for part in module.modules()]
    try:
        yield
    finally:
        for part, attributes, buffers in before:
            vars(part).clear()
            vars(part).update(attributes)
            part._buffers.clear()
            part._buffers.update(buffers)


def _keep_input(traced: fx.GraphModule) -> None:
    """Let a step that changes the image in place change a copy of it: the image is the chain's."""
    (image, *_) = (node for node in traced.graph.nodes if node.op == "placeholder")
    if any(_is_in_place(traced, node) and node.args and node.args[0] is image for node in traced.graph.nodes):
        with traced.graph.inserting_after(image):
            own = traced.graph.call_method("clone", (image,))
        image.replace_all_uses_with(own, delete_user_cb=lambda user: user is not own)


def _follow_in_place(traced: fx.GraphModule) -> None:
    """Let whatever uses a value after a step that changes it in place use that step: a cut may drop it otherwise."""
    rank = {node: index for index, node in enumerate(traced.graph.nodes)}
    for node in traced.graph.nodes:
        changed = node.args[0] if node.args and _is_in_place(traced, node) else None
        if isinstance(changed, fx.Node):
            later = [user for user in changed.users if rank[user] > rank[node]]
            for user in later:
                user.replace_input_with(changed, node)
    traced.recompile()


def _is_in_place(root: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return getattr(module_of(root, node), "inplace", False) is True
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    return node.op == "call_function" and (node.target in _IN_PLACE or node.kwargs.get("inplace") is True)
