"""What is found out about a network before any of its layers is listed or cut."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from raygen.networks.graph.plain import first_real, forward_of
from raygen.networks.graph.receptive import Field, receptive_fields
from raygen.networks.graph.steps import fold_numbers
from raygen.networks.graph.tracing import Traced, Untraced, is_relu, trace
from raygen.networks.network import Network

Shape = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Anatomy:
    """A traced network with what is known of its steps.

    Attributes:
        traced: the graph.
        shapes: of every value that is a tensor, for one input.
        fields: of every value with a grid; None where that is not defined.
    """

    traced: Traced
    shapes: dict[fx.Node, Shape]
    fields: dict[fx.Node, Field | None]

    def rectified(self, layer: str) -> bool:
        """Say whether the response of ``layer`` ends with a ReLU, and not one inside a layer of the user."""
        return layer not in self.traced.opened and is_relu(self.traced.module, self.traced.ends[layer])

    def end(self, layer: str, *, after: bool = False) -> fx.Node:
        """Return the value that the nodes of ``layer`` are scored by: its response, or what its ReLU is given.

        Args:
            layer: one of the traced ends.
            after: take the ReLU's output instead.
        """
        end = self.traced.ends[layer]
        return end.all_input_nodes[0] if self.rectified(layer) and not after else end


def examine(network: Network) -> Anatomy | Untraced:
    """Trace ``network`` and measure its steps, or say why that cannot be."""
    traced = trace(network.module, network.input_shape)
    if isinstance(traced, Untraced):
        return traced
    try:
        shapes = graph_shapes(traced.module, network.input_shape, fold=True)
    except Exception as error:  # a graph that is another function than the user's forward
        return Untraced(f"{type(error).__name__}: {error}")
    return Anatomy(traced, shapes, receptive_fields(traced, shapes))


def graph_shapes(graph: fx.GraphModule, input_shape: Shape, *, fold: bool = False) -> dict[fx.Node, Shape]:
    """Return the shape of every value that is a tensor, for one input of (C, h, w); the largest of a tuple of them.

    With ``fold``, windows that ``graph`` computes from sizes are written into it, see :func:`fold_numbers`.
    """
    shapes, numbers = run_on_shapes(graph, input_shape, _values)
    if fold and numbers:
        fold_numbers(graph.graph, numbers)
        graph.recompile()
    return {node: shapes[node.name] for node in graph.graph.nodes if node.name in shapes}


def run_on_shapes(module: nn.Module, input_shape: Shape, run: Callable[[nn.Module, Tensor], T]) -> T:
    """Return what ``run`` makes of ``module`` and one input of (C, h, w), which is zeros.

    It is given a copy of torch's fake tensors, which have shapes and no values, so nothing is computed; or, where that
    fails because the forward looks at values, the module itself.
    """
    like = first_real(module)
    x = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    mode = FakeTensorMode()
    with torch.no_grad():
        try:
            with FakeCopyMode(mode):
                hollow = copy.deepcopy(module)
            with mode:
                return run(hollow, mode.from_tensor(x))
        except Exception:  # the forward may be the user's code
            with forward_of(type(module).__name__):
                return run(module, x)


def _values(graph: nn.Module, x: Tensor) -> tuple[dict[str, Shape], dict[str, Any]]:
    """Return by the names of the steps the shapes of tensors, and what else is an integer or several."""
    assert isinstance(graph, fx.GraphModule)
    noting = _Noting(graph)
    noting.run(x)
    return noting.shapes, noting.numbers


class _Noting(fx.Interpreter):
    # Not torch's own ShapeProp, which prints a traceback where a step needs values.
    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.shapes: dict[str, Shape] = {}
        self.numbers: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        parts = value if isinstance(value, tuple | list) else (value,)
        tensors = [tuple(part.shape) for part in parts if isinstance(part, Tensor)]
        if tensors:
            self.shapes[n.name] = max(tensors, key=len)
        elif parts and all(isinstance(part, int) for part in parts):
            self.numbers[n.name] = tuple(parts) if isinstance(value, tuple | list) else value
        return value
