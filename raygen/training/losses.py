"""The generative loss, whose softmax runs over the images of a batch, and the discriminative one, over its classes.

Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015, sections 3.2 and 3.3. Every function
here sees the shard of one process and answers for the *global* batch, the union of the shards of a process group:
parameter gradients *summed* over the processes are those of one process that holds the whole batch, for any split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

UNLABELLED = -1
"""The label of an image that joins the reference sample only."""


@dataclass(frozen=True)
class GenerativeTerms:
    """The generative loss of a global batch with its normalisers and importance weights; equal on every process.

    Attributes:
        loss: scalar, differentiable.
        log_sum: (C,), LSE_c = logsumexp_j f_c(x_j) over the images of the global batch; minus infinity without images.
        effective_sample_size: (C,), 1 / sum_j w_cj^2 with w_cj = softmax_j f_c(x_j), from 1 to the number of images.
        largest_weight: (C,), max_j w_cj, from 1 / number of images to 1.
        counts: (C,), labelled images of each class; a class without any learns nothing from this batch.
    """

    loss: Tensor
    log_sum: Tensor
    effective_sample_size: Tensor
    largest_weight: Tensor
    counts: Tensor


def generative_loss(scores: Tensor, labels: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """L = -(1/n) sum_i f_{y_i}(x_i) + sum_c (n_c/n) LSE_c over the global batch (paper, section 3.2).

    Args:
        scores: (n, C) of this process; n may differ between processes and may be 0. Half precision is computed in
            float32, float64 stays float64.
        labels: (n,) int64 in 0..C-1, or -1 for an image without label, which enters LSE_c only; n counts labelled
            images.
        group: the process group; by default all processes where torch.distributed is initialised, else this one alone.

    Returns:
        The global loss, the same on every process. Its gradient is that of this process's rows, exactly:
        dL/df_c(x_j) = (n_c/n) exp(f_c(x_j) - LSE_c) - [y_j = c]/n. So gradients are to be summed over processes.

    Raises:
        RuntimeError, IndexError: shapes do not agree, or a label is out of range.
    """
    return generative_terms(scores, labels, group).loss


def generative_terms(scores: Tensor, labels: Tensor, group: dist.ProcessGroup | None = None) -> GenerativeTerms:
    """Return the loss of :func:`generative_loss` with normalisers and effective sample sizes, at no further message.

    Two all-reduces: C maxima, then 3C + 1 sums.
    """
    return GenerativeTerms(*_GenerativeLoss.apply(scores, labels, group))


def discriminative_loss(scores: Tensor, labels: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """L = -(1/n) sum_i log softmax_c f_c(x_i) at c = y_i, over the global batch; arguments as :func:`generative_loss`.

    Images without label have no part in it. Gradients are to be summed over processes, as the generative ones.
    """
    loss: Tensor = _DiscriminativeLoss.apply(scores, labels, group)
    return loss


def importance_weights(scores: Tensor) -> Tensor:
    """w_cj = softmax_j f_c(x_j), shape (n, C): each column sums to 1 over the images."""
    return torch.softmax(_wide(scores), dim=0)


def effective_sample_size(weights: Tensor) -> Tensor:
    """ESS_c = 1 / sum_j w_cj^2, shape (C,), of importance weights (n, C): from 1 to n images."""
    return weights.square().sum(0).reciprocal()


def global_log_sum(scores: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """LSE_c = logsumexp_j f_c(x_j), shape (C,), over the rows (n, C) of all processes; not differentiable."""
    top, below = _below_top(scores.detach(), group)
    return top + _reduce(below.exp().sum(0), dist.ReduceOp.SUM, group).log()


def log_normaliser(scores: Tensor) -> Tensor:
    """Log Z_c = log mean_j exp f_c(x_j), shape (C,), from the scores (n, C) of a sample of the reference."""
    wide = _wide(scores)
    return torch.logsumexp(wide, 0) - wide.new_tensor(len(wide)).log()


def calibration(log_z: Tensor, labels: Tensor) -> Tensor:
    """a_c = log rho_c - log Z_c, shape (C,): p(c|x) = softmax_c(f_c(x) + a_c).

    Args:
        log_z: (C,), of :func:`log_normaliser`.
        labels: (n,) int64; rho_c are their frequencies. A class without label has a_c = minus infinity.
    """
    counts = torch.bincount(labels[labels >= 0], minlength=len(log_z)).to(log_z)
    return counts.log() - counts.sum().log() - log_z


class _GenerativeLoss(torch.autograd.Function):
    """The closed form; no autograd through collectives, and only the shard's own gradient is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        labels: Tensor,
        group: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        classes = scores.shape[1]
        own = _one_hot(labels, scores)
        top, below = _below_top(scores, group)
        shifted = below.exp()
        own_score = torch.where(own > 0, below, 0).sum().reshape(1)
        sums = torch.cat((shifted.sum(0), own.sum(0), shifted.square().sum(0), own_score))
        bounds = (classes, 2 * classes, 3 * classes)
        total, counts, squares, own_score = _reduce(sums, dist.ReduceOp.SUM, group).tensor_split(bounds)
        n = counts.sum().clamp(min=1)
        # The maxima cancel between the two parts of the loss, so that large scores cost no digits. A class without
        # images of its own has no term, whatever its normaliser is (minus infinity in an empty batch).
        terms = torch.where(counts > 0, counts * total.log(), 0)
        ctx.save_for_backward((_ratio(counts, total) * shifted - own).div_(n).to(scores.dtype))
        loss, ess = (terms.sum() - own_score.squeeze()) / n, _ratio(total.square(), squares)
        log_sum = top + total.log()
        # The largest weight is that of the maximum, whose shifted exponential is 1.
        largest = _ratio(torch.ones_like(total), total)
        ctx.mark_non_differentiable(log_sum, ess, largest, counts)
        return loss, log_sum, ess, largest, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None


class _DiscriminativeLoss(torch.autograd.Function):
    """Cross entropy with the global 1/n."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        labels: Tensor,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        own = _one_hot(labels, scores)
        log_p = torch.log_softmax(_wide(scores), 1)
        sums = torch.stack((torch.where(own > 0, log_p, 0).sum(), own.sum()))
        log_likelihood, n = _reduce(sums, dist.ReduceOp.SUM, group)
        n = n.clamp(min=1)
        labelled = own.sum(1, keepdim=True)
        ctx.save_for_backward((labelled * log_p.exp() - own).div_(n).to(scores.dtype))
        loss: Tensor = -log_likelihood / n
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None


def _wide(scores: Tensor) -> Tensor:
    """Return the scores in float32 at least: an exponential sum in bfloat16 would keep two digits."""
    return scores.float() if scores.dtype in {torch.float16, torch.bfloat16} else scores


def _one_hot(labels: Tensor, scores: Tensor) -> Tensor:
    """[y_j = c] as numbers (n, C); zero rows for images without label."""
    n, classes = scores.shape
    # Column 0 takes the images without label, so that every other label out of range is refused by scatter_.
    columns = _wide(scores).new_zeros(n, classes + 1)
    return columns.scatter_(1, (labels.reshape(n) + 1).unsqueeze(1), 1.0)[:, 1:]


def _below_top(scores: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Return the global maxima (C,) and f_c(x_j) - maximum (n, C) of this process's rows."""
    wide = _wide(scores)
    # A row of minus infinity stands for no image: an empty shard takes part in the maximum, and decides nothing.
    floor = wide.new_full((1, wide.shape[1]), -torch.inf)
    top = _reduce(torch.cat((wide, floor)).amax(0), dist.ReduceOp.MAX, group)
    return top, wide - top


def _reduce(numbers: Tensor, operation: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None) -> Tensor:
    """Reduce the numbers over the processes, in place; leave them where this process is alone."""
    # A group of one has nothing to add, but gloo would still take its time.
    if dist.is_initialized() and dist.get_world_size(group) > 1:
        dist.all_reduce(numbers, operation, group=group)
    return numbers


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return above / below, and 0 where there is nothing below: a batch without images."""
    return torch.where(below > 0, above / below, 0)
