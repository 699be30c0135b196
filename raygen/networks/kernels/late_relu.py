"""ReLUs moved behind the max-poolings that follow them, where they have fewer pixels to pass."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn import functional as F

from raygen.networks.graph.plain import is_plain
from raygen.networks.graph.tracing import module_of

_RELUS = (F.relu, torch.relu)


def with_late_relus(module: nn.Module) -> nn.Module:
    """Return ``module`` with each ReLU whose only use is a max-pooling, or a concatenation for one, behind it.

    The maximum of ReLUs is the ReLU of the maximum, so values and gradients stay the same to the last bit, while the
    ReLU, forward and back, passes a quarter of the pixels. ``module`` is not changed; what is not a graph, or has no
    such ReLU, is returned itself.
    """
    if not isinstance(module, fx.GraphModule) or not any(_relus_before(module, node) for node in module.graph.nodes):
        return module
    other = copy.deepcopy(module)
    for pool in list(other.graph.nodes):
        relus = _relus_before(other, pool)
        for relu in relus:
            relu.replace_all_uses_with(relu.all_input_nodes[0])
        if relus:
            _put_behind(other.graph, relus[0], pool)
        for relu in relus:
            other.graph.erase_node(relu)
    other.recompile()
    return other


def _put_behind(graph: fx.Graph, relu: fx.Node, pool: fx.Node) -> None:
    with graph.inserting_after(pool):
        late = graph.node_copy(relu, lambda _: pool)
    pool.replace_all_uses_with(late, delete_user_cb=lambda user: user is not late)


def _relus_before(module: fx.GraphModule, pool: fx.Node) -> list[fx.Node]:
    layer = module_of(module, pool)
    if (
        not isinstance(layer, nn.MaxPool2d)
        or not is_plain(layer, nn.MaxPool2d)
        or layer.return_indices
        or len(pool.all_input_nodes) != 1
    ):
        return []
    source = pool.all_input_nodes[0]
    joined = source.op == "call_function" and source.target is torch.cat
    relus = list(source.all_input_nodes) if joined else [source]
    alone = len(source.users) == 1 and all(_is_relu(module, relu) and _is_alone(relu) for relu in relus)
    return relus if alone else []


def _is_relu(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target in _RELUS and len(node.all_input_nodes) == 1
    return is_plain(module_of(module, node), nn.ReLU)


def _is_alone(relu: fx.Node) -> bool:
    # In place it would also change what another step reads.
    return len(relu.users) == 1 and len(relu.all_input_nodes[0].users) == 1
