"""Error and likelihood of a network on images it was not trained on, with and without its normalisers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raygen.data import ImageSet
from raygen.tilting.losses import global_log_sum
from raygen.training.scoring import Scorer
from raygen.training.sharing import place

_BATCH = 256


@dataclass(frozen=True)
class Evaluation:
    """How good a network's p(c|x) is on the labelled images of a set.

    Attributes:
        error: part of the images given a wrong class by softmax_c f_c(x), 0 to 1.
        error_calibrated: the same by softmax_c(f_c(x) + a_c).
        negative_log_likelihood: mean of -log p(y|x), nats, by softmax_c f_c(x).
        negative_log_likelihood_calibrated: the same by softmax_c(f_c(x) + a_c).
    """

    error: float
    error_calibrated: float
    negative_log_likelihood: float
    negative_log_likelihood_calibrated: float


@torch.no_grad()
def evaluate(module: nn.Module, images: ImageSet, biases: Tensor, scorer: Scorer) -> Evaluation:
    """Evaluate on a set; every process takes its share and returns the result of all.

    Args:
        module: put in evaluation mode.
        images: on the module's device.
        biases: a_c = log rho_c - log Z_c, (C,).
        scorer: how images become scores.
    """
    choices = torch.stack((torch.zeros_like(biases), biases)).double()
    sums = torch.zeros(5, dtype=torch.float64, device=biases.device)
    for scores, labels in _shares(module, images, scorer):
        known = labels >= 0
        log_p = torch.log_softmax(scores[known].double() + choices[:, None], 2)  # (2, n, C)
        own = labels[known]
        wrong = (log_p.argmax(2) != own).sum(1)
        likelihood = log_p.gather(2, own.expand(2, -1).unsqueeze(2)).sum((1, 2))
        sums += torch.cat((wrong, -likelihood, known.sum().reshape(1)))
    if dist.is_initialized():
        dist.all_reduce(sums)
    return Evaluation(*(sums[:4] / sums[4]).tolist())


@torch.no_grad()
def log_normaliser_of(module: nn.Module, images: ImageSet, scorer: Scorer) -> Tensor:
    """Return log Z_c = log mean_j exp f_c(x_j), (C,) float64, over a set; every process takes its share of it."""
    rows = [torch.logsumexp(scores.double(), 0) for scores, _ in _shares(module, images, scorer)]
    shared = torch.stack(rows) if rows else scorer.mean.new_zeros(0, scorer.classes).double()
    return global_log_sum(shared) - math.log(len(images))


def _shares(module: nn.Module, images: ImageSet, scorer: Scorer) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the scores and labels of this process's share, batch by batch."""
    rank, processes = place()
    module.eval()
    for start in range(rank * _BATCH, len(images), processes * _BATCH):
        batch = slice(start, start + _BATCH)
        yield scorer.scores(module, images.images[batch]), images.labels[batch]
