"""The shapes of what a network computes, found without computing it where the network allows it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

Shape = tuple[int, ...]


def hollow(module: nn.Module) -> nn.Module:
    """Return a copy whose weights have shapes and no values: on torch's device "meta", where nothing is computed."""
    tensors = [*module.parameters(), *module.buffers()]
    # deepcopy takes what its memo holds for a tensor instead of copying it.
    memo: dict[int, Any] = {id(tensor): _empty(tensor) for tensor in tensors}
    return copy.deepcopy(module, memo)


def run_hollow(module: nn.Module, input_shape: Shape) -> bool:
    """Run ``module``, a :func:`hollow` copy, on an input of (C, h, w); say whether its forward works without values."""
    try:
        module(_zeros(module, input_shape, torch.device("meta")))
    except Exception:  # the forward may be the user's code, and may look at values or make tensors of its own
        return False
    return True


def run_real(module: nn.Module, input_shape: Shape) -> None:
    """Run ``module`` on zeros of shape (C, h, w)."""
    like = next(module.parameters(), torch.zeros(()))
    with torch.no_grad():
        module(_zeros(module, input_shape, like.device))


def graph_shapes(graph: fx.GraphModule, input_shape: Shape) -> dict[fx.Node, Shape]:
    """Return the shape of every value that is a tensor, for one input of (C, h, w); the largest of a tuple of them."""
    recorder = _Recorder(hollow(graph))
    if not run_hollow(recorder, input_shape):
        recorder = _Recorder(graph)
        run_real(recorder, input_shape)
    return {node: recorder.shapes[node.name] for node in graph.graph.nodes if node.name in recorder.shapes}


class _Recorder(nn.Module):
    """Runs a graph step by step and notes shapes by the steps' names."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph
        self.shapes: dict[str, Shape] = {}

    def forward(self, x: Tensor) -> Any:
        assert isinstance(self.graph, fx.GraphModule)
        return _Noting(self.graph, self.shapes).run(x)


class _Noting(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, shapes: dict[str, Shape]) -> None:
        super().__init__(graph)
        self._shapes = shapes

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        parts = value if isinstance(value, tuple | list) else (value,)
        tensors = [tuple(part.shape) for part in parts if isinstance(part, Tensor)]
        if tensors:
            self._shapes[n.name] = max(tensors, key=len)
        return value


def _empty(tensor: Tensor) -> Tensor:
    hollowed = torch.empty_like(tensor, device="meta")
    return nn.Parameter(hollowed, requires_grad=False) if isinstance(tensor, nn.Parameter) else hollowed


def _zeros(module: nn.Module, input_shape: Shape, device: torch.device) -> Tensor:
    like = next(module.parameters(), torch.zeros(()))
    return torch.zeros(1, *input_shape, dtype=like.dtype, device=device)
