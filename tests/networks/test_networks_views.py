"""Views: fixed, linear, the image itself first; a score over them is the mean of plain scores, with its gradient."""

import pytest
import torch

from raygen.networks import (
    NetworkSettings,
    NodeScores,
    Views,
    ViewScores,
    cut_network,
    load_network,
    wrap_network,
)


def images(count, channels, height, width, seed=0):
    return torch.rand((count, channels, height, width), generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize(("height", "width"), [(28, 28), (7, 12), (1, 1), (2, 3)])
def test_the_first_view_is_the_image_itself(height, width):
    x = images(2, 3, height, width)
    torch.testing.assert_close(Views.of(1, height, width)(x), x, rtol=0, atol=0)
    seen = Views.of(5, height, width)(x)
    assert seen.shape == (10, 3, height, width)
    torch.testing.assert_close(seen[::5], x, rtol=0, atol=0)


def test_views_can_be_had_one_by_one_in_their_sequence():
    x = images(1, 3, 17, 30)
    single = [Views.of(1, 17, 30, first=number)(x) for number in range(6)]
    torch.testing.assert_close(torch.cat(single), Views.of(6, 17, 30)(x), rtol=0, atol=0)


def test_a_view_neither_brightens_nor_darkens_and_stays_between_black_and_white():
    views = Views.of(64, 17, 30)
    grey = torch.full((1, 3, 17, 30), 0.3)
    torch.testing.assert_close(views(grey), grey.expand(64, 3, 17, 30), rtol=0, atol=1e-6)
    for weights in (views.down, views.across):
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(2), torch.ones(weights.shape[:2]), rtol=0, atol=1e-6)


def test_views_are_moved_and_zoomed_by_amounts_that_cover_their_range():
    # A ramp shows where each pixel of a view comes from.
    ramp = torch.arange(112.0)
    middle = Views.of(64, 112, 112).down @ ramp
    shift = 55.5 - 0.5 * (middle[:, 55] + middle[:, 56])
    zoom = 20 / (middle[:, 66] - middle[:, 46])
    assert zoom.min() == pytest.approx(0.85, abs=0.01) and zoom.max() == pytest.approx(1.15, abs=0.01)
    moved = shift * zoom
    assert moved.min() == pytest.approx(-8, abs=0.5) and moved.max() == pytest.approx(8, abs=0.5)
    assert abs(moved.mean()) < 0.3 and abs(zoom.mean() - 1) < 0.01
    assert moved.std() == pytest.approx(16 / 12**0.5, rel=0.1)  # uniform


def test_beyond_its_edge_an_image_is_mirrored():
    ramp = torch.arange(56.0)
    seen = Views.of(64, 56, 56).down @ ramp
    assert (seen >= 0).all() and (seen <= 55).all()
    # Where a view lies on the image is a line; beyond the edge it turns back at the same slope.
    slope = (seen[:, 38] - seen[:, 18]) / 20
    line = seen[:, 28:29] + slope[:, None] * (torch.arange(56.0) - 28)
    expected = torch.where(line < 0, -line, torch.where(line > 55, 110 - line, line))
    beyond = (line < -0.5) | (line > 55.5)
    inside = (line > 1) & (line < 54)
    assert beyond.sum() > 50
    torch.testing.assert_close(seen[beyond | inside], expected[beyond | inside], rtol=0, atol=1e-3)


def test_more_views_begin_with_the_same_ones():
    few, many = Views.of(4, 9, 9), Views.of(9, 9, 9)
    assert torch.equal(few.down, many.down[:4]) and torch.equal(few.across, many.across[:4])


def scores(layer, channels, count, size=28):
    network = load_network(NetworkSettings(weights="random"))
    cut = cut_network(network, layer)
    rows = torch.tensor(channels)
    views = Views.of(count, *cut.input_shape[1:])
    plain = NodeScores(cut, rows)
    return ViewScores(NodeScores(cut, rows.repeat_interleave(count)), plain, views), plain


@pytest.mark.parametrize("layer", ["ip2", "conv2", "conv1"])
def test_the_score_is_the_mean_of_the_plain_scores_of_the_views(layer):
    over, plain = scores(layer, [1, 3, 1], 5)
    x = images(3, *over.input_shape)
    seen = over.views(x)
    expected = torch.stack([plain(seen[view::5]) for view in range(5)]).mean(0)
    torch.testing.assert_close(over(x), expected)
    assert torch.equal(over.responses(x), plain.responses(x)) and torch.equal(over.channels, plain.channels)


def test_one_view_gives_the_plain_score():
    over, plain = scores("ip2", [1, 3], 1)
    x = images(2, *over.input_shape)
    torch.testing.assert_close(over(x), plain(x), rtol=1e-12, atol=1e-12)


def test_a_linear_score_has_the_gradient_of_the_mean_adjoint_view():
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 6 * 7, 3)).double()
    network = wrap_network(linear, name="linear", input_shape=(2, 6, 7), mean=(0.0, 0.0), std=(1.0, 1.0))
    cut, views = cut_network(network, "1"), Views.of(6, 6, 7)
    over = ViewScores(NodeScores(cut, torch.tensor([2] * 6)), NodeScores(cut, torch.tensor([2])), views)
    x = images(1, 2, 6, 7).requires_grad_()
    (gradient,) = torch.autograd.grad(over(x).sum(), x)
    weight = linear[1].weight[2].view(2, 6, 7)
    adjoint = torch.stack([
        views.down[view].T.double() @ weight @ views.across[view].double() for view in range(6)
    ]).mean(0)  # fmt: skip
    torch.testing.assert_close(gradient[0], adjoint)


@pytest.mark.parametrize("chosen", [torch.tensor([True, False, True]), torch.tensor([2, 0])])
def test_chosen_rows_have_their_own_scores(chosen):
    over, _ = scores("ip2", [1, 3, 7], 4)
    x = images(3, *over.input_shape)
    torch.testing.assert_close(over.rows(chosen)(x[chosen]), over(x)[chosen], rtol=1e-6, atol=1e-6)


def test_bfloat16_leads_about_where_float32_does():
    over, _ = scores("conv2", [1, 3], 4)
    x = images(2, *over.input_shape).float().requires_grad_()
    exact, cheap = (torch.autograd.grad(one(x).sum(), x)[0] for one in (over, over.with_precision("bfloat16")))
    assert (cheap - exact).norm() < 0.15 * exact.norm()


def test_another_number_of_images_than_of_rows_is_refused():
    over, _ = scores("ip2", [1, 3], 4)
    with pytest.raises(ValueError, match="3 inputs for 2 channels"):
        over(images(3, *over.input_shape))
