"""References: each is the Gaussian it says, and its map is exact both ways, with its gradient."""

import math

import pytest
import torch

from raygen.errors import ScoreError
from raygen.tilting import Fitted, PowerLaw, WhiteNoise
from raygen.tilting.references.power_law import PHOTOGRAPH_COLOURS


def known_gaussian(size, seed=3):
    """A mean and covariance (size, size), of condition below 100."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn((size, size), generator=generator, dtype=torch.float64) / math.sqrt(size)
    mean = torch.randn(size, generator=generator, dtype=torch.float64)
    return mean, factor @ factor.T + 0.1 * torch.eye(size, dtype=torch.float64)


def draws_of(mean, covariance, count, shape, seed=4):
    noise = torch.randn((count, len(mean)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mean + noise @ torch.linalg.cholesky(covariance).T).view(count, *shape)


def fitted(shape, count=400, **options):
    return Fitted.of(draws_of(*known_gaussian(math.prod(shape)), count, shape), **options)


REFERENCES = {
    "white": WhiteNoise((2, 3, 4), 2.5),
    "power law, one channel, even": PowerLaw.of((1, 4, 6), 0.7),
    "power law, one channel, odd": PowerLaw.of((1, 5, 3), 2.0, 0.8),
    "power law, one channel, mixed": PowerLaw.of((1, 4, 5), 1.0, 2.0),
    "power law, two channels": PowerLaw.of((2, 5, 4), 1.5),
    "power law, colours, even": PowerLaw.of((3, 4, 4), 0.7),
    "power law, colours, odd": PowerLaw.of((3, 3, 5), 10.0),
    "power law, own colours": PowerLaw.of((2, 3, 4), 1.0, 1.0, ((1.0, -0.4), (-0.4, 1.0))),
    "power law, a row": PowerLaw.of((1, 1, 7), 1.0),
    "power law, a pixel": PowerLaw.of((3, 1, 1), 1.0),
    "power law, flat": PowerLaw.of((1, 4, 4), 3.0, 0.0),
    "fitted": fitted((2, 3, 2)),
    "fitted, scaled": fitted((1, 3, 4), scale=0.5),
    "fitted, fewer images than pixels": fitted((1, 4, 4), count=6, floor=0.05),
}
EACH = pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES.keys())


def normal(reference, count, dtype=torch.float64, seed=0):
    return torch.randn((count, *reference.shape), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def matrix(reference):
    """A, column by column, and the mean."""
    size = reference.dimension
    mean = reference.image(torch.zeros((1, *reference.shape), dtype=torch.float64))
    basis = torch.eye(size, dtype=torch.float64).view(size, *reference.shape)
    return (reference.image(basis) - mean).flatten(1).T, mean.flatten()


@EACH
def test_whitening_undoes_the_image(reference):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-3)):
        z = normal(reference, 5, dtype)
        x = reference.image(z)
        assert x.shape == z.shape and x.dtype == dtype
        torch.testing.assert_close(reference.whiten(x), z, rtol=0, atol=tolerance)


@EACH
def test_the_linear_part_is_the_image_less_the_mean(reference):
    a, mean = matrix(reference)
    z = normal(reference, 3)
    torch.testing.assert_close(reference.linear(z).flatten(1), z.flatten(1) @ a.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(reference.image(z).flatten(1), mean + z.flatten(1) @ a.T, rtol=0, atol=1e-10)


@EACH
def test_the_covariance_of_images_is_a_times_its_transpose(reference):
    a, mean = matrix(reference)
    covariance, count = a @ a.T, 20_000
    x = reference.image(normal(reference, count)).flatten(1)
    variance = covariance.diagonal()
    error = ((covariance.square() + variance[:, None] * variance[None, :]) / count).sqrt()
    assert ((x.mean(0) - mean).abs() / (variance / count).sqrt()).max() < 5
    assert ((torch.cov(x.T) - covariance).abs() / error).max() < 5


@EACH
def test_the_power_is_the_trace_and_the_volume_the_determinant(reference):
    a, _ = matrix(reference)
    assert reference.dimension == len(a)
    assert reference.power == pytest.approx((a @ a.T).trace().item(), rel=1e-5)
    assert reference.log_volume == pytest.approx(torch.linalg.slogdet(a)[1].item(), abs=1e-5)


@EACH
def test_the_log_density_is_the_gaussians(reference):
    a, mean = matrix(reference)
    expected = torch.distributions.MultivariateNormal(mean, a @ a.T)
    x = 1.5 * reference.image(normal(reference, 6)) + 0.1
    torch.testing.assert_close(reference.log_density(x), expected.log_prob(x.flatten(1)), rtol=1e-6, atol=1e-5)
    single = reference.log_density(x.float()).double()
    torch.testing.assert_close(single, expected.log_prob(x.flatten(1)), rtol=1e-3, atol=1e-2)


@EACH
def test_gradients_pass_through_the_maps_exactly(reference):
    z = normal(reference, 2).requires_grad_()
    assert torch.autograd.gradcheck(reference.image, (z,))
    assert torch.autograd.gradcheck(reference.linear, (z,))


@EACH
def test_moving_to_a_device_changes_nothing(reference):
    z, moved = normal(reference, 2), reference.to("cpu")
    assert type(moved) is type(reference) and moved.shape == reference.shape
    assert torch.equal(moved.image(z), reference.image(z)) and moved.power == reference.power


# ---- power law


@pytest.mark.parametrize(("shape", "exponent"), [((1, 64, 64), 1.2), ((1, 63, 63), 0.6), ((1, 48, 64), 2.0)])
def test_the_amplitude_falls_with_the_frequency_to_the_exponent(shape, exponent):
    reference = PowerLaw.of(shape, 1.0, exponent)
    _, height, width = shape
    spectrum = torch.fft.fft2(reference.image(normal(reference, 200)), norm="ortho").abs().square().mean((0, 1))
    rows, columns = torch.fft.fftfreq(height) * max(shape), torch.fft.fftfreq(width) * max(shape)
    cycles = (rows[:, None].square() + columns[None, :].square()).sqrt()
    kept = cycles >= 1
    line = torch.stack([cycles[kept].log(), torch.ones(int(kept.sum()))], dim=1).double()
    slope = torch.linalg.lstsq(line, 0.5 * spectrum[kept].log()[:, None]).solution[0].item()
    assert slope == pytest.approx(-exponent, abs=0.01)


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 7, 5), (3, 1, 9)])
def test_every_pixel_has_the_same_deviation_and_the_channels_correlate_as_in_photographs(shape):
    reference = PowerLaw.of(shape, 0.7)
    a, mean = matrix(reference)
    pixels = (a @ a.T).view(3, -1, 3, shape[1] * shape[2])
    assert mean.abs().max() == 0
    for pixel in range(shape[1] * shape[2]):
        torch.testing.assert_close(
            pixels[:, pixel, :, pixel] / 0.49,
            torch.tensor(PHOTOGRAPH_COLOURS, dtype=torch.float64),
            rtol=0,
            atol=1e-6,
        )


def test_neighbouring_pixels_agree_more_than_distant_ones():
    a, _ = matrix(PowerLaw.of((1, 8, 8), 1.0))
    covariance = (a @ a.T).view(8, 8, 8, 8)
    assert covariance[0, 0, 0, 1] > 0.5 > covariance[0, 0, 0, 2] > covariance[0, 0, 4, 4]
    assert covariance[0, 0, 0, 1] == pytest.approx(covariance[3, 6, 3, 7].item())


def test_channels_other_than_three_are_independent_and_alike():
    a, _ = matrix(PowerLaw.of((2, 3, 3), 1.0))
    covariance = (a @ a.T).view(2, 9, 2, 9)
    assert covariance[0, :, 1].abs().max() < 1e-12
    torch.testing.assert_close(covariance[0, :, 0], covariance[1, :, 1])


def test_the_exponent_zero_is_white_noise():
    z = normal(PowerLaw.of((1, 4, 5), 1.0), 3)
    torch.testing.assert_close(PowerLaw.of((1, 4, 5), 2.0, 0.0).image(z), 2.0 * z)


@pytest.mark.parametrize("colours", [
    ((1.0, 0.5), (0.5, 1.0)),
    ((1.0, 0.9, -0.9), (0.9, 1.0, 0.9), (-0.9, 0.9, 1.0)),
    ((1.0, 0.1, 0.2), (0.3, 1.0, 0.2), (0.2, 0.2, 1.0)),
    ((2.0, 0.1, 0.1), (0.1, 2.0, 0.1), (0.1, 0.1, 2.0)),
], ids=["size", "indefinite", "asymmetric", "no correlation"])  # fmt: skip
def test_wrong_colours_are_refused_in_one_line(colours):
    with pytest.raises(ScoreError, match=r"3 x 3 correlation matrix.*positive definite") as caught:
        PowerLaw.of((3, 4, 4), 1.0, colours=colours)
    assert "\n" not in str(caught.value)


# ---- fitted


def test_a_fit_finds_the_mean_and_covariance_of_a_known_gaussian():
    shape, count = (2, 2, 2), 40_000
    mean, covariance = known_gaussian(8)
    a, found = matrix(Fitted.of(draws_of(mean, covariance, count, shape)))
    variance = covariance.diagonal()
    error = ((covariance.square() + variance[:, None] * variance[None, :]) / count).sqrt()
    assert ((found - mean).abs() / (variance / count).sqrt()).max() < 5
    assert ((a @ a.T - covariance).abs() / error).max() < 5


def test_a_fit_is_that_of_its_images():
    images = draws_of(*known_gaussian(6), 50, (1, 2, 3))
    a, mean = matrix(Fitted.of(images, floor=1e-6))
    torch.testing.assert_close(mean, images.flatten(1).mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(a @ a.T, torch.cov(images.flatten(1).T), rtol=0, atol=1e-5)


def test_directions_that_the_images_never_take_get_the_floor():
    generator = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn((9, 2), generator=generator, dtype=torch.float64))[0]
    images = (torch.randn((500, 2), generator=generator, dtype=torch.float64) @ plane.T).view(500, 1, 3, 3)
    a, _ = matrix(Fitted.of(images, floor=0.02))
    values = torch.linalg.eigvalsh(a @ a.T)
    mean = torch.linalg.eigvalsh(torch.cov(images.flatten(1).T)).mean()
    torch.testing.assert_close(values[:7], (0.02 * mean).expand(7), rtol=1e-4, atol=0)
    assert values[7] > 1.5 * mean


def test_the_scale_multiplies_the_deviation_and_leaves_the_mean():
    images = draws_of(*known_gaussian(6), 100, (1, 2, 3))
    (one, mean), (half, same) = matrix(Fitted.of(images)), matrix(Fitted.of(images, scale=0.5))
    torch.testing.assert_close(half, 0.5 * one, rtol=0, atol=1e-6)
    assert torch.equal(mean, same)


def test_one_image_alone_is_a_reference_all_the_same():
    reference = Fitted.of(torch.full((1, 1, 2, 2), 3.0))
    x = reference.image(normal(reference, 4, torch.float32))
    assert x.isfinite().all()
    torch.testing.assert_close(x, torch.full_like(x, 3.0))
