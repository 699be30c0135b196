"""From nodes to what computes their scores together."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raygen.errors import NodeError
from raygen.networks.graph.cut import Cut, cut_network
from raygen.networks.network import Network
from raygen.networks.scores import NodeScores
from raygen.nodes import Node


def cut_for(network: Network, node: Node, *, crop: bool = True) -> Cut:
    """Cut ``network`` for ``node`` and all others of its layer and ending.

    Args:
        network: whose node.
        node: one of them.
        crop: whether to crop to the receptive field; a position or the mean of the whole map always needs the whole.

    Raises:
        NodeError: see :func:`cut_network`.
    """
    whole = node.position is not None or node.mean
    return cut_network(network, node.layer, crop=crop and not whole, after=node.after)


def score_nodes(cut: Cut, nodes: Sequence[Node], chains: int = 1) -> NodeScores:
    """Return the scores of ``nodes``, each for ``chains`` rows in turn: N = len(nodes) * chains.

    Args:
        cut: of their layer, see :func:`cut_for`.
        nodes: at least one, all with the same layer and ending.
        chains: rows of each node.

    Raises:
        NodeError: if the nodes do not share a layer and an ending, or are not in the layer.
    """
    kinds = list(dict.fromkeys(f"{node.layer}{node.ending}" for node in nodes))
    if len(kinds) != 1 or nodes[0].layer != cut.layer or nodes[0].after != cut.after:
        where = f"layer {cut.layer}{'@relu' if cut.after else ''}"
        raise NodeError(f"nodes of {', '.join(kinds)}", where=where, right="score the nodes of one layer and ending")
    channels = torch.tensor([node.channel for node in nodes])
    weights = _weights(cut, nodes) if any(node.terms for node in nodes) else None
    return NodeScores(
        cut,
        channels.repeat_interleave(chains),
        nodes[0].position,
        mean=nodes[0].mean,
        weights=None if weights is None else weights.repeat_interleave(chains, 0),
    )


def _weights(cut: Cut, nodes: Sequence[Node]) -> torch.Tensor:
    weights = torch.zeros(len(nodes), cut.channels, dtype=torch.float64)
    for row, node in enumerate(nodes):
        for channel, weight in node.terms or ((node.channel, 1.0),):
            if channel >= cut.channels:
                right = f"channels of {cut.layer} are 0-{cut.channels - 1}"
                raise NodeError(f"there is no channel {channel}", where=f"node {node}", right=right)
            weights[row, channel] = weight
    return weights
