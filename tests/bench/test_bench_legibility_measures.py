import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from raygen.bench.legibility_measures import (
    Viewer,
    choose_queries,
    distances,
    diversity,
    interpretability,
    ranks,
    standardised,
    top,
)
from raygen.networks import wrap_network


def viewer(channels=3, size=8, mean=None, std=None):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 5, 3),
                           nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(4))  # fmt: skip
    module(torch.zeros(1, channels, size, size))
    return Viewer.of(wrap_network(module, name="second", input_shape=(channels, size, size), mean=mean, std=std))


@given(st.permutations(range(7)), st.integers(0, 6))
@settings(max_examples=50, deadline=None)
def test_the_rank_of_a_channel_is_how_many_are_stronger(order, channel):
    responses = -torch.tensor([order], dtype=torch.float32)
    assert ranks(responses, torch.tensor([channel])).tolist() == [order[channel]]


def test_equal_channels_share_the_middle_rank_so_that_a_constant_network_ranks_nothing_first():
    found = ranks(torch.zeros(2, 9), torch.tensor([0, 8]))
    assert found.tolist() == [4, 4]
    assert top(found, 1) == 0


def test_top_1_and_top_5_count_the_first_and_the_first_five_ranks():
    found = torch.tensor([0.0, 1.0, 4.0, 5.0])
    assert (top(found, 1), top(found, 5)) == (0.25, 0.75)


def test_a_channel_that_is_loud_for_all_images_is_not_first_for_what_excites_another():
    natural = torch.tensor([[100.0, 0.0], [102.0, 1.0], [98.0, -1.0]])
    responses = torch.tensor([[101.0, 5.0]])
    assert ranks(responses, torch.tensor([1])).tolist() == [1]
    assert ranks(standardised(responses, natural), torch.tensor([1])).tolist() == [0]
    torch.testing.assert_close(standardised(responses, natural), torch.tensor([[0.5, 5.0]]))


def test_a_channel_that_is_dead_over_natural_images_stays_finite():
    found = standardised(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 2.0], [1.0, 4.0]]))
    assert torch.isfinite(found).all()
    assert found[0].tolist() == [0, 0]


def test_identical_images_have_no_diversity_and_one_image_has_none_that_is_known():
    features = viewer().features(torch.rand(1, 3, 8, 8).expand(4, -1, -1, -1))
    assert diversity(features) == 0
    assert math.isnan(diversity(features[:1]))


def test_diversity_is_the_mean_over_pairs_of_different_images():
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert diversity(corners) == pytest.approx((1 + 1 + 2) / 3)


def test_images_that_are_the_strong_natural_ones_score_1_and_the_weak_ones_score_0():
    strong, weak = torch.eye(4)[:2] * 0.1, torch.eye(4)[2:] * 0.1 + 5
    assert interpretability(strong, strong, weak) == 1
    assert interpretability(weak, strong, weak) == 0


def test_a_strong_image_of_its_own_scores_1_through_a_real_network():
    images = torch.cat([torch.rand(1, 3, 8, 8), torch.rand(5, 3, 8, 8)])
    features = viewer().features(images)
    assert interpretability(features[:1], features[:1], features[1:]) == 1


def test_images_that_say_nothing_score_one_half():
    same = torch.ones(3, 2)
    assert interpretability(torch.zeros(1, 2), same, same) == 0.5
    generator = torch.Generator().manual_seed(0)
    node, strong, weak = (torch.randn(n, 16, generator=generator) for n in (4, 300, 300))
    assert interpretability(node, strong, weak) == pytest.approx(0.5, abs=0.05)


def test_distances_are_squared_ones_and_an_image_is_at_none_from_itself():
    x = torch.randn(3, 200) * 1e3
    assert distances(x, x).diagonal().tolist() == [0, 0, 0]
    torch.testing.assert_close(distances(x, x + 2), torch.cdist(x.double(), x.double() + 2).square().float())


def test_questions_take_the_strongest_and_the_weakest_images_and_none_that_is_shown():
    responses = torch.tensor([3.0, 9.0, 1.0, 8.0, 2.0, 7.0, 0.0, 6.0])
    found = choose_queries(responses, 2)
    assert (found.shown.tolist(), found.strong.tolist(), found.weak.tolist()) == ([1, 5], [3, 7], [2, 6])


def test_a_network_sees_images_at_its_own_size_and_in_its_own_units():
    seen = viewer(mean=(0.5, 0.5, 0.25), std=(0.5, 0.25, 0.25))
    x = seen.inputs(torch.full((2, 3, 20, 14), 0.75))
    assert x.shape == (2, 3, 8, 8)
    torch.testing.assert_close(x[1, :, 3, 3], torch.tensor([0.5, 1.0, 2.0]))


@pytest.mark.parametrize(("shown", "channels"), [(1, 3), (3, 1)])
def test_grey_and_colour_networks_see_each_others_images(shown, channels):
    seen = viewer(channels)
    assert seen.inputs(torch.full((2, shown, 8, 8), 0.5)).shape == (2, channels, 8, 8)
    assert seen.responses(torch.rand(2, shown, 8, 8)).shape == (2, 4)


def test_features_leave_no_hook_and_are_of_length_one_at_most_for_each_layer():
    seen = viewer()
    features = seen.features(torch.rand(3, 3, 8, 8))
    assert seen.layers == ("2",)
    assert features.shape == (3, 5)
    assert (features.norm(dim=1) <= 1 + 1e-6).all()
    assert not any(part._forward_hooks for part in seen.network.module.modules())
