"""Dead and constant nodes, found with a few gradients before any are sampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raygen.networks.graph.cut import Cut
from raygen.networks.scores import score_nodes
from raygen.notation import Node

_ROUND_OFF = 8 * torch.finfo(torch.float32).eps


def dead_nodes(cut: Cut, nodes: Sequence[Node], images: Tensor, *, batch: int = 256) -> dict[Node, str]:
    """Return the nodes that no chain can follow, each with the reason; mostly none.

    A node is dead whose score is the same for all of the images up to round-off (its weights are 0, or all that it
    sees is dead), is not finite for one of them, or has no gradient at any of them, so that every chain would only
    draw from the reference. It costs one gradient for each node and image.

    Args:
        cut: of the nodes' layer, see :func:`cut_for`; not changed.
        nodes: all with the same layer and ending.
        images: (K, C, h, w), the cut's inputs, such as draws from the reference; 8 to 32 of them will do.
        batch: nodes in one pass.

    Raises:
        NodeError: if the nodes do not fit the cut.
    """
    if len(images) < 2:
        raise ValueError("a constant score shows at two images, not at one")
    dead: dict[Node, str] = {}
    for start in range(0, len(nodes), batch):
        part = nodes[start : start + batch]
        scores, sloped = _look(cut, part, images)
        for node, values, has_gradient in zip(part, scores.T, sloped, strict=True):
            reason = _reason(values, has_gradient=has_gradient)
            if reason is not None:
                dead[node] = reason
    return dead


def _look(cut: Cut, nodes: Sequence[Node], images: Tensor) -> tuple[Tensor, list[bool]]:
    """Return the scores (K, nodes), and whether each node has a gradient at any image."""
    scores = score_nodes(cut, nodes).to(images.device)
    values = images.new_empty(len(images), len(nodes))
    sloped = torch.zeros(len(nodes), dtype=torch.bool, device=images.device)
    for row, image in enumerate(images):
        x = image.expand(len(nodes), *image.shape).clone().requires_grad_()
        with torch.enable_grad():
            found = scores(x)
        (gradient,) = torch.autograd.grad(found.sum(), x)
        values[row] = found.detach()
        sloped |= gradient.flatten(1).ne(0).any(1)
    return values, sloped.tolist()


def _reason(values: Tensor, *, has_gradient: bool) -> str | None:
    count = len(values)
    if not bool(values.isfinite().all()):
        return f"its score is not finite for {int((~values.isfinite()).sum())} of {count} images"
    if float(values.max() - values.min()) <= _ROUND_OFF * float(values.abs().max()):
        return f"constant: its score is {float(values[0]):.4g} for all of {count} images"
    return None if has_gradient else f"dead: its score has no gradient at any of {count} images"
