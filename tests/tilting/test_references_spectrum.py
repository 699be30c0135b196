"""The Gaussian of large images by its spectrum: an exact map both ways, and that of its images."""

import math

import pytest
import torch

from raygen.errors import ScoreError
from raygen.tilting import Fitted, FittedSpectrum, PowerLaw, WhiteNoise
from raygen.tilting.references.power_law import angles, cycles, full_plane


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def uneven(shape, count=12, seed=1):
    """Images with a mean, correlated neighbours and channels."""
    channels = shape[0]
    noise = torch.randn((count, *shape), generator=seeded(seed))
    noise = noise + 0.7 * noise.roll(1, -1) + 0.4 * noise.roll(1, -2)
    mixing = torch.eye(channels) + 0.3 * torch.ones(channels, channels)
    return torch.einsum("cd,ndhw->nchw", mixing, noise) + torch.arange(1.0, channels + 1).view(-1, 1, 1)


SHAPES = [(1, 4, 6), (1, 5, 3), (2, 4, 5), (3, 5, 4), (3, 1, 7), (3, 6, 1), (3, 2, 2), (3, 1, 1)]
EACH = pytest.mark.parametrize("shape", SHAPES, ids=str)


def fitted(shape):
    return FittedSpectrum.of(uneven(shape), floor=0.01)


def matrix(reference):
    size = reference.dimension
    return reference.linear(torch.eye(size, dtype=torch.float64).view(size, *reference.shape)).flatten(1).T


# ---- the map


@EACH
def test_whitening_undoes_the_image(shape):
    reference = fitted(shape)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        z = torch.randn((5, *shape), generator=seeded(), dtype=dtype)
        x = reference.image(z)
        assert x.shape == z.shape and x.dtype == dtype
        torch.testing.assert_close(reference.whiten(x), z, rtol=0, atol=tolerance)


@EACH
def test_the_map_is_symmetric_with_the_power_and_volume_that_it_tells(shape):
    reference = fitted(shape)
    a = matrix(reference)
    torch.testing.assert_close(a, a.T, rtol=0, atol=1e-10)
    assert (torch.linalg.eigvalsh(a) > 0).all()
    assert reference.power == pytest.approx((a @ a.T).trace().item(), rel=1e-6)
    assert reference.log_volume == pytest.approx(torch.linalg.slogdet(a)[1].item(), abs=1e-6)


@EACH
def test_the_log_density_is_the_gaussians(shape):
    reference = fitted(shape)
    a = matrix(reference)
    mean = reference.mean.double().expand(shape).flatten()
    x = reference.image(torch.randn((4, *shape), generator=seeded(), dtype=torch.float64)) + 0.1
    expected = torch.distributions.MultivariateNormal(mean, a @ a.T).log_prob(x.flatten(1))
    torch.testing.assert_close(reference.log_density(x), expected, rtol=1e-6, atol=1e-5)


@EACH
def test_gradients_pass_through_exactly(shape):
    z = torch.randn((2, *shape), generator=seeded(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fitted(shape).image, (z,))


def test_every_pixel_has_the_same_covariance_with_its_neighbours():
    shape = (2, 4, 5)
    a = matrix(fitted(shape))
    covariance = (a @ a.T).view(*shape, *shape)
    for row, column in ((0, 0), (2, 3), (3, 4)):
        there = covariance[0, row, column, 1].roll((-row, -column), (0, 1))
        torch.testing.assert_close(there, covariance[0, 0, 0, 1], rtol=0, atol=1e-10)


def test_moving_to_a_device_changes_nothing():
    reference = fitted((2, 4, 5))
    z, moved = torch.randn((2, 2, 4, 5), generator=seeded()), reference.to("cpu")
    assert isinstance(moved, FittedSpectrum) and torch.equal(moved.image(z), reference.image(z))


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 5), (3, 1), (1, 4), (4, 7), (2, 2)])
def test_the_full_plane_is_the_half_and_its_mirror(height, width):
    image = torch.randn((2, height, width), generator=seeded(), dtype=torch.float64)
    full, half = torch.fft.fft2(image).abs(), torch.fft.rfft2(image).abs()
    torch.testing.assert_close(full_plane(half, width), full)
    assert cycles(height, width).shape == angles(height, width).shape == (height, width)


# ---- the fit


@pytest.fixture(scope="module")
def photographs():
    """What pictures are, as far as second moments go, cut out of larger ones, so that their edges do not meet."""
    return PowerLaw.of((3, 96, 96), 0.7, 1.2).draw(150, seeded(5))[:, :, :48, :48] + 1.5


def test_the_fit_has_the_spectrum_and_colours_of_its_images(photographs):
    reference = FittedSpectrum.of(photographs, floor=1e-6)
    power = reference.root.double().square().sum((0, 1))[:, :25] / 3
    radius = cycles(48, 48)[:, :25]
    middle = (radius > 2) & (radius < 24)
    line = torch.stack([radius[middle].log(), torch.ones(int(middle.sum()))], dim=1).double()
    slope = torch.linalg.lstsq(line, 0.5 * power[middle].log()[:, None]).solution[0].item()
    assert slope == pytest.approx(-1.2, abs=0.08)
    variance = photographs.double().var((0, 2, 3))
    assert reference.power == pytest.approx(48 * 48 * variance.sum().item(), rel=1e-3)
    torch.testing.assert_close(reference.mean.flatten(), photographs.mean((0, 2, 3)), rtol=0, atol=1e-4)
    drawn = reference.draw(300, seeded()).transpose(0, 1).flatten(1)
    torch.testing.assert_close(
        torch.corrcoef(drawn), torch.corrcoef(photographs.transpose(0, 1).flatten(1)), rtol=0, atol=0.03
    )


def test_the_edges_of_smooth_images_are_not_taken_for_steps():
    # A step from one edge to the other would fall as 1 / frequency, and hide what falls faster.
    smooth = PowerLaw.of((1, 96, 96), 1.0, 2.5).draw(100, seeded())[:, :, :48, :48]
    power = FittedSpectrum.of(smooth, floor=1e-12).root[0, 0].double().square()
    assert 0.5 * (power[0, 5] / power[0, 20]).log() / math.log(4) == pytest.approx(2.5, abs=0.2)


def test_a_grid_in_the_images_leaves_no_grid_in_the_draws(photographs):
    # Its periodograms stand out of their rings 16, 87 and 6 times.
    grid = torch.zeros(48, 48)
    grid[::8, :] = grid[:, ::8] = 1.0
    power = full_plane(FittedSpectrum.of(photographs + grid).root.double().square().sum((0, 1)), 48)
    radius = cycles(48, 48)
    for row, column in ((0, 6), (12, 0), (18, 6)):
        near = (radius - radius[row, column]).abs() < 0.7
        assert power[row, column] < 3.5 * power[near].median()


def test_directions_that_carry_more_keep_it():
    noise = torch.randn((60, 1, 32, 32), generator=seeded())
    striped = noise + noise.roll(1, -1) + noise.roll(2, -1)  # smooth along the rows
    power = FittedSpectrum.of(striped, floor=1e-6).root.double().square()[0, 0]
    assert power[11, 0] > 1.5 * power[0, 11]
    assert power[11, 0] == pytest.approx(power[21, 0].item())


def test_white_noise_is_fitted_as_white():
    reference = FittedSpectrum.of(2 * torch.randn((400, 1, 16, 16), generator=seeded()))
    torch.testing.assert_close(reference.root, torch.full_like(reference.root, 2.0), rtol=0.2, atol=0)


def test_colours_that_the_images_never_take_get_the_floor():
    grey = PowerLaw.of((1, 24, 24), 1.0).draw(20, seeded()).repeat(1, 3, 1, 1)
    values = torch.linalg.eigvalsh(FittedSpectrum.of(grey, floor=0.01).root.double().permute(2, 3, 0, 1)).square()
    least = 0.01 * grey.double().var(correction=0)
    torch.testing.assert_close(values[..., 0], least.expand(24, 13), rtol=1e-4, atol=0)
    assert values[0, 1, 2] > 100 * least


def test_the_scale_multiplies_the_deviation_and_leaves_the_mean(photographs):
    one, half = FittedSpectrum.of(photographs), FittedSpectrum.of(photographs, scale=0.5)
    torch.testing.assert_close(half.root, 0.5 * one.root, rtol=1e-5, atol=1e-7)
    assert torch.equal(half.mean, one.mean)


def test_units_are_those_that_the_images_are_brought_to():
    pixels = torch.randint(256, (70, 3, 8, 9), generator=seeded(), dtype=torch.uint8)
    by_batch = FittedSpectrum.of(pixels, to_input=lambda batch: batch.float() / 100 - 1)
    at_once = FittedSpectrum.of(pixels.float() / 100 - 1)
    torch.testing.assert_close(by_batch.root, at_once.root)
    torch.testing.assert_close(by_batch.mean, at_once.mean)


@pytest.mark.parametrize("images", [torch.full((1, 3, 8, 8), 2.0), torch.zeros((5, 1, 6, 6))], ids=["one", "black"])
def test_images_without_variance_are_a_reference_all_the_same(images):
    reference = FittedSpectrum.of(images)
    x = reference.draw(3, seeded())
    assert x.isfinite().all() and reference.whiten(x).isfinite().all()
    torch.testing.assert_close(x, images[:1].expand_as(x))


def test_few_images_are_smooth_all_the_same():
    one = PowerLaw.of((1, 64, 64), 1.0).draw(1, seeded(2))
    power = full_plane(FittedSpectrum.of(one).root[0, 0].double().square(), 64)
    ring = power[cycles(64, 64).round() == 25]
    assert ring.max() < 4 * ring.min()


# ---- draws of all references


@pytest.mark.parametrize("reference", [
    WhiteNoise((2, 3, 4), 2.0), PowerLaw.of((3, 4, 4), 0.5), Fitted.of(uneven((2, 3, 3), 50)), fitted((3, 5, 4)),
], ids=lambda reference: type(reference).__name__)  # fmt: skip
def test_draws_are_of_the_reference_and_of_their_generator(reference):
    x = reference.draw(4000, seeded())
    assert x.shape == (4000, *reference.shape) and x.dtype == torch.float32
    assert torch.equal(x, reference.draw(4000, seeded())) and not torch.equal(x, reference.draw(4000, seeded(1)))
    square = reference.whiten(x).flatten(1).square().sum(1).mean().item()
    assert square == pytest.approx(reference.dimension, rel=5 * math.sqrt(2 / reference.dimension / 4000))
    mean = reference.image(torch.zeros((1, *reference.shape)))
    assert (x - mean).square().sum((1, 2, 3)).mean().item() == pytest.approx(reference.power, rel=0.1)


# ---- what is refused


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(("name", "make"), [
    ("sigma", lambda value: WhiteNoise((1, 4, 4), value)),
    ("sigma", lambda value: PowerLaw.of((1, 4, 4), value)),
    ("scale", lambda value: Fitted.of(torch.ones(2, 1, 2, 2), scale=value)),
    ("floor", lambda value: Fitted.of(torch.ones(2, 1, 2, 2), floor=value)),
    ("scale", lambda value: FittedSpectrum.of(torch.ones(2, 1, 2, 2), scale=value)),
    ("floor", lambda value: FittedSpectrum.of(torch.ones(2, 1, 2, 2), floor=value)),
])  # fmt: skip
def test_what_is_not_above_zero_is_refused_by_name_and_value(name, make, value):
    with pytest.raises(ScoreError, match=f"{name} = {value:g}") as caught:
        make(value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("exponent", [-0.1, math.nan, math.inf])
def test_an_exponent_below_zero_is_refused(exponent):
    with pytest.raises(ScoreError, match=f"exponent = {exponent:g}"):
        PowerLaw.of((1, 4, 4), 1.0, exponent)


@pytest.mark.parametrize("shape", [(0, 4, 4), (1, 0, 4), (1, 4, -1), (4, 4)])
def test_a_shape_that_no_image_has_is_refused(shape):
    with pytest.raises(ScoreError, match="shape = "):
        WhiteNoise(shape, 1.0)
    with pytest.raises(ScoreError, match="shape = "):
        PowerLaw.of(shape, 1.0)


@pytest.mark.parametrize("kind", [Fitted, FittedSpectrum])
@pytest.mark.parametrize("size", [(0, 1, 4, 4), (1, 4, 4), (3, 0, 4, 4)])
def test_images_that_are_none_are_refused(kind, size):
    with pytest.raises(ScoreError, match="to fit to"):
        kind.of(torch.ones(size))
