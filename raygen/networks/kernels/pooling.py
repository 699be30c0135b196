"""Max-pooling by two by two pixels, faster in bfloat16 on a CPU; and ReLUs that move behind a max-pooling.

The library's kernel keeps an index of eight bytes for every maximum and, of bfloat16, takes channels beyond a multiple
of 32 one by one: of LeNet's 20 it made an eighth of a training step. Two maxima of neighbours, of columns and then of
rows, pass whole rows of pixels at once, and their inputs say where the gradient goes.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from raygen.networks.graph.plain import is_plain
from raygen.networks.graph.steps import pair
from raygen.networks.graph.tracing import module_of

_RELUS = (F.relu, torch.relu)


def pool_in_pairs(module: nn.Module) -> nn.Module:
    """Put a :class:`PairedMaxPool2d` in place of each max-pooling in ``module`` that is one; return ``module``.

    Parameters, their names, and what the module computes stay as they are. A max-pooling alone is returned as a new
    one.
    """
    if _is_suitable(module):
        return PairedMaxPool2d(2, 2).train(module.training)
    for name, layer in list(module.named_modules()):
        if _is_suitable(layer):
            module.set_submodule(name, PairedMaxPool2d(2, 2).train(layer.training))
    return module


class PairedMaxPool2d(nn.MaxPool2d):
    """Max-pooling with kernel 2 and stride 2, in two steps where the library's is slower: for bfloat16 on a CPU.

    Values are the library's to the last bit; the gradient, too, goes to the first of equal pixels, row by row (but for
    zeros of two signs, which it may take for different). It cannot be differentiated again.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the maxima (N, C, H // 2, W // 2) of ``input`` (N, C, H, W)."""
        if input.ndim == 4 and input.is_cpu and input.dtype == torch.bfloat16 and min(input.shape[2:]) > 1:
            output: Tensor = _MaxOfPairs.apply(input)
        else:
            output = super().forward(input)
        return output


class _MaxOfPairs(torch.autograd.Function):
    """Works on (N, H, W, C), which is how images lie in memory in the format channels-last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        height, width = (2 * (size // 2) for size in x.shape[2:])
        # No copy where sizes are even and channels lie last.
        pixels = x[:, :, :height, :width].permute(0, 2, 3, 1).contiguous()
        rows = torch.maximum(*_columns(pixels))
        output = torch.maximum(*_rows(rows))
        ctx.size = x.shape
        ctx.save_for_backward(pixels, rows, output)
        return output.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Bits are moved, and compared as whole numbers, for which a CPU has instructions, as it has not for bfloat16.
        pixels, rows, output = (saved.view(torch.int16) for saved in ctx.saved_tensors)
        own = gradient.permute(0, 2, 3, 1).contiguous().view(torch.int16)
        to_rows, to_pixels = torch.empty_like(rows), torch.empty_like(pixels)
        _route(own, _rows(rows)[0], output, _rows(to_rows))
        _route(to_rows, _columns(pixels)[0], rows, _columns(to_pixels))
        found: Tensor = to_pixels.view(torch.bfloat16).permute(0, 3, 1, 2)
        below, right = (whole - part for whole, part in zip(ctx.size[2:], found.shape[2:], strict=True))
        if below or right:
            found = nn.functional.pad(found, (0, right, 0, below))
        return found


def _route(gradient: Tensor, first: Tensor, larger: Tensor, to: tuple[Tensor, Tensor]) -> None:
    """Write the gradient of ``larger`` to the first of each pair where that is the larger one, else to the second."""
    torch.eq(first, larger, out=to[0]).mul_(gradient)
    torch.sub(gradient, to[0], out=to[1])


def _columns(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the even and the odd columns (N, H, W / 2, C) of (N, H, W, C)."""
    count, height, width, channels = pixels.shape
    even, odd = pixels.view(count, height, width // 2, 2, channels).unbind(3)
    return even, odd


def _rows(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the even and the odd rows (N, H / 2, W, C) of (N, H, W, C)."""
    count, height, width, channels = pixels.shape
    even, odd = pixels.view(count, height // 2, 2, width, channels).unbind(2)
    return even, odd


def _is_suitable(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.MaxPool2d)
        and is_plain(layer, nn.MaxPool2d)
        and pair(layer.kernel_size) == pair(layer.stride) == (2, 2)
        and pair(layer.padding) == (0, 0)
        and pair(layer.dilation) == (1, 1)
        and not layer.ceil_mode
        and not layer.return_indices
    )


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
