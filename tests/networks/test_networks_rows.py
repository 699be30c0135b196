"""Scores of some rows of a batch: the same numbers as in the whole batch."""

import pytest
import torch

from raygen.networks import NetworkSettings, NodeScores, cut_network, load_network

ROWS = torch.tensor([4, 0, 3])


@pytest.mark.parametrize("precision", [None, "bfloat16", "float64"])
@pytest.mark.parametrize(
    ("layer", "mean", "weighted"),
    [("ip2", False, False), ("conv2", False, False), ("pool2", False, False), ("ip1", False, True),
     ("conv1", True, False), ("conv1", True, True)],
)  # fmt: skip
def test_rows_alone_score_what_they_score_among_others(layer, mean, weighted, precision):
    network = load_network(NetworkSettings(network="lenet", weights="random"), seed=3)
    cut = cut_network(network, layer, crop=not mean)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn((5, cut.channels), generator=generator) if weighted else None
    scores = NodeScores(cut, torch.arange(5), mean=mean, weights=weights)
    scores = scores if precision is None else scores.with_precision(precision)
    x = torch.randn((5, *cut.input_shape), generator=generator)
    before = scores(x)
    torch.testing.assert_close(scores.rows(ROWS)(x[ROWS]), before[ROWS], rtol=1e-5, atol=1e-5)
    assert torch.equal(scores(x), before)  # the whole batch is what it was
    assert torch.equal(scores.rows(ROWS).rows(torch.tensor([1]))(x[:1]), scores.rows(torch.tensor([0]))(x[:1]))
