import math

import pytest
import torch
from torch import nn

from raygen.bench.fourier_optimiser import FourierImages, changed, optimise
from raygen.networks import NetworkSettings, NodeScores, cut_network, load_network, wrap_network

CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(2, 3, 16, 12), (3, 1, 9, 7)])
def test_pixels_stay_between_black_and_white_and_begin_near_grey(shape):
    images = FourierImages(shape, seeded(), CPU).pixels().detach()
    assert images.shape == shape
    assert images.min() > 0 and images.max() < 1
    assert abs(float(images.mean()) - 0.5) < 0.1


def test_a_coefficient_moves_pixels_by_one_over_its_frequency():
    images = FourierImages((1, 1, 32, 32), seeded(), CPU)

    def power(row, column):
        with torch.no_grad():
            images.coefficients.zero_()
            images.coefficients[0, 0, row, column, 0] = 1.0
            return float(images.pixels().logit().std())

    assert power(0, 2) / power(0, 8) == pytest.approx(4, rel=1e-3)
    assert power(3, 4) / power(6, 8) == pytest.approx(2, rel=1e-3)


def test_colours_are_mixed_as_natural_ones_are_and_a_grey_network_has_none():
    images = FourierImages((1, 3, 16, 16), seeded(), CPU)
    with torch.no_grad():
        images.coefficients[:, 1:] = 0
        red, green, blue = images.pixels().logit()[0]
    torch.testing.assert_close(green / red, torch.full_like(red, 0.27 / 0.26), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(green, blue)


def test_changes_move_scale_and_turn_a_little_and_keep_what_is_grey():
    grey = torch.full((4, 3, 20, 20), 0.5)
    torch.testing.assert_close(changed(grey, seeded()), grey)
    spot = torch.full((64, 1, 141, 141), 0.5)
    spot[:, :, 69:72, 69:72] = 1
    found = changed(spot, seeded()) - 0.5
    axis = torch.arange(141.0) - 70
    mass = found.sum((1, 2, 3))
    across, down = (found.sum((1, 2)) @ axis) / mass, (found.sum((1, 3)) @ axis) / mass
    for moved in (across, down):
        assert 4 < moved.abs().max() < 7.5
        assert moved.abs().mean() > 1
    assert (mass / 4.5).min() > 0.75 and (mass / 4.5).max() < 1.3  # 0.9 and 1.1, squared
    assert len({round(float(value), 3) for value in across}) > 5


def test_a_linear_score_is_driven_to_the_image_that_is_white_where_its_weights_are_positive():
    module = nn.Sequential(nn.Flatten(), nn.Linear(1024, 1, bias=False))
    with torch.no_grad():
        weights = torch.ones(32, 32)
        weights[:, :16] = -1
        module[1].weight.copy_(weights.reshape(1, 1024))
    network = wrap_network(module, name="halves", input_shape=(1, 32, 32), class_names=("half",))
    scores = NodeScores(cut_network(network, "1"), torch.zeros(2, dtype=torch.int64))
    found = optimise(scores, network, gradients=80, seed=1)
    assert found.images.shape == (2, 1, 32, 32)
    assert (found.images[..., 18:].mean() - found.images[..., :14].mean()) > 0.6


def test_gradients_are_counted_as_the_network_makes_them_and_the_same_seed_gives_the_same_images():
    network = load_network(NetworkSettings(weights="random"))
    scores = NodeScores(cut_network(network, "ip2"), torch.tensor([3, 5]))
    calls = []
    scores.register_full_backward_hook(lambda module, given, out: calls.append(1))
    first, again, other = (optimise(scores, network, gradients=5, seed=seed) for seed in (1, 1, 2))
    assert first.gradients == 5 and len(calls) == 15
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    assert not first.images.requires_grad


def test_a_time_that_is_over_ends_it_after_one_gradient_at_least():
    network = load_network(NetworkSettings(weights="random"))
    scores = NodeScores(cut_network(network, "conv1"), torch.tensor([3]))
    assert optimise(scores, network, gradients=50, seed=0, seconds=0.0).gradients == 1
    assert optimise(scores, network, gradients=3, seed=0, seconds=math.inf).gradients == 3
