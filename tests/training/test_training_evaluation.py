"""Errors, likelihoods and calibration errors on testing images."""

from dataclasses import replace

import pytest
import torch
from small_training import blobs, small_network
from torch import nn

from raygen.data import ImageSet
from raygen.training import evaluate, log_normaliser_of, make_scorer


def test_evaluation_agrees_with_its_definition():
    module, images = small_network().eval(), blobs(700, 2)  # more than one batch
    scorer = make_scorer([0.2], [0.5], 3, "float32", module)
    log_z = log_normaliser_of(module, images, scorer)
    scores = module((images.images / 255 - 0.2) / 0.5).detach().double()
    torch.testing.assert_close(log_z, scores.exp().mean(0).log(), rtol=1e-5, atol=1e-6)
    biases = torch.tensor([0.5, -0.1, 0.0])
    found = evaluate(module, images, biases, scorer)
    assert found.error == pytest.approx((scores.argmax(1) != images.labels).double().mean().item())
    assert found.error_calibrated == pytest.approx(
        ((scores + biases).argmax(1) != images.labels).double().mean().item()
    )
    for nll, a in ((found.negative_log_likelihood, 0), (found.negative_log_likelihood_calibrated, biases)):
        assert nll == pytest.approx(nn.functional.cross_entropy(scores + a, images.labels).item(), rel=1e-5)


class Table(nn.Module):
    """Gives every image the scores that its first pixel points to."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, x):
        return self.rows[x[:, 0, 0, 0].round().long()]


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy_bin_by_bin():
    # Ten images of confidence 0.9 of which 5 are right, and four of confidence 0.6 of which 3 are right.
    p = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log()
    images = torch.zeros(14, 1, 1, 1, dtype=torch.uint8)
    images[10:] = 1
    labels = torch.tensor([0] * 5 + [1] * 5 + [1] * 3 + [0])
    found = evaluate(
        module := Table(p),
        ImageSet("two", images, labels, ("a", "b")),
        torch.tensor([0.0, 100.0]),  # calibrated, all is "b" with confidence 1
        make_scorer([0.0], [1 / 255], 2, "float32", module),
    )
    assert found.error == pytest.approx(6 / 14)
    assert found.calibration_error == pytest.approx((10 * 0.4 + 4 * 0.15) / 14, rel=1e-6)
    assert found.error_calibrated == pytest.approx(6 / 14)
    assert found.calibration_error_calibrated == pytest.approx(6 / 14)


def test_images_without_label_are_not_judged():
    module, images = small_network(), blobs(50, 2)
    scorer = make_scorer([0.0], [1.0], 3, "float32", module)
    mixed = replace(images, labels=torch.where(torch.arange(50) < 20, images.labels, -1))
    assert evaluate(module, mixed, torch.zeros(3), scorer) == evaluate(
        module, images.subset(range(20)), torch.zeros(3), scorer
    )
