"""Error, likelihood and calibration of a network on images it was not trained on, with and without its normalisers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raygen.data import ImageSource, Share
from raygen.training.losses import global_log_sum
from raygen.training.scoring import Scorer
from raygen.training.sharing import add_up, rank_and_processes

_BATCH = 256
_BINS = 15
"""Of confidence, equally wide (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017)."""


@dataclass(frozen=True)
class Evaluation:
    """How good a network's p(c|x) is on the labelled images of a set; NaN where there are none.

    Each is given for softmax_c f_c(x), and, as ``..._calibrated``, for softmax_c(f_c(x) + a_c).

    Attributes:
        error: part of the images given a wrong class, 0 to 1.
        negative_log_likelihood: mean of -log p(y|x), nats.
        calibration_error: expected |accuracy - confidence|, confidence being the largest p(c|x), over 15 bins; 0 to 1.
        error_calibrated: see above.
        negative_log_likelihood_calibrated: see above.
        calibration_error_calibrated: see above.
    """

    error: float
    negative_log_likelihood: float
    calibration_error: float
    error_calibrated: float
    negative_log_likelihood_calibrated: float
    calibration_error_calibrated: float


@torch.no_grad()
def evaluate(module: nn.Module, images: ImageSource, biases: Tensor, scorer: Scorer) -> Evaluation:
    """Evaluate on a set; every process takes its share and returns the result of all.

    Args:
        module: put in evaluation mode.
        images: the set.
        biases: a_c = log rho_c - log Z_c, (C,), on the module's device.
        scorer: how images become scores.
    """
    choices = torch.stack((torch.zeros_like(biases), biases)).double()
    # By choice and bin: images, right ones, sums of confidence, sums of -log p(y|x).
    sums = torch.zeros(2, _BINS, 4, dtype=torch.float64, device=biases.device)
    for scores, labels in _shares(module, images, scorer):
        known = labels >= 0
        sums += torch.stack([_counted(scores[known].double() + choice, labels[known]) for choice in choices])
    return Evaluation(*(value for table in add_up(sums) for value in _figures(table)))


def _counted(logits: Tensor, labels: Tensor) -> Tensor:
    log_p = torch.log_softmax(logits, 1)
    confidence, predicted = log_p.max(1)
    confidence = confidence.exp()
    own = -log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
    rows = torch.stack((torch.ones_like(own), (predicted == labels).double(), confidence, own), 1)
    bins = (confidence.nan_to_num() * _BINS).long().clamp(max=_BINS - 1)
    return rows.new_zeros(_BINS, 4).index_add_(0, bins, rows)


def _figures(table: Tensor) -> tuple[float, float, float]:
    """Return error, negative log-likelihood and calibration error."""
    n, right, _, likelihood = table.sum(0)
    gap = (table[:, 1] - table[:, 2]).abs().sum()
    error, mean, gap = (torch.stack((n - right, likelihood, gap)) / n).tolist()
    return error, mean, gap


@torch.no_grad()
def log_normaliser_of(module: nn.Module, images: ImageSource, scorer: Scorer) -> Tensor:
    """Return log Z_c = log mean_j exp f_c(x_j), (C,) float64, over a set; every process takes its share of it."""
    rows, seen = [], torch.zeros(1, dtype=torch.float64, device=scorer.mean.device)
    for scores, _ in _shares(module, images, scorer):
        rows.append(torch.logsumexp(scores.double(), 0))
        seen += len(scores)
    shared = torch.stack(rows) if rows else scorer.mean.new_zeros(0, scorer.classes).double()
    return global_log_sum(shared) - math.log(add_up(seen).item())


def _shares(module: nn.Module, images: ImageSource, scorer: Scorer) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the scores and labels of this process's share, batch by batch."""
    module.eval()
    for shard in images.once(_BATCH, Share(*rank_and_processes())):
        batch = shard.to(scorer.mean.device)
        if len(batch.labels):
            yield scorer.scores(module, batch.images), batch.labels
