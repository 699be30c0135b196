"""References made of others: a part has the whole's distribution there, and a cutoff takes out what lies beyond it."""

import math

import pytest
import torch

from raygen.errors import ScoreError
from raygen.tilting import Bounded, Fitted, FittedSpectrum, PowerLaw, WhiteNoise, low_passed, marginal
from raygen.tilting.references.power_law import cycles, low_pass

IMAGES = torch.randn((90, 3, 6, 8), generator=torch.Generator().manual_seed(0)).cumsum(3).cumsum(2)
WHOLE = {
    "white": WhiteNoise((3, 6, 8), 1.3),
    "power law": PowerLaw.of((3, 6, 8), 0.7),
    "fitted": Fitted.of(IMAGES),
    "spectrum": FittedSpectrum.of(IMAGES),
    "power law, large": PowerLaw.of((1, 80, 81), 1.5),
}
EACH = pytest.mark.parametrize("whole", [*WHOLE.values()][:4], ids=[*WHOLE.keys()][:4])


def covariance_of(reference):
    """A A', float64, of (D, D), and the mean (D,)."""
    size = reference.dimension
    basis = torch.eye(size, dtype=torch.float64).view(size, *reference.shape)
    mean = reference.image(torch.zeros((1, *reference.shape), dtype=torch.float64)).flatten()
    a = reference.linear(basis).flatten(1).T
    return a @ a.T, mean


@EACH
@pytest.mark.parametrize("shape", [(3, 3, 4), (3, 6, 2), (3, 1, 1), (3, 5, 7)])
def test_a_part_has_the_mean_and_covariance_of_the_whole_there(whole, shape):
    top, left = (6 - shape[1]) // 2, (8 - shape[2]) // 2
    inside = torch.arange(3 * 6 * 8).view(3, 6, 8)[:, top : top + shape[1], left : left + shape[2]].flatten()
    covariance, mean = covariance_of(whole)
    part = marginal(whole, shape)
    assert part.shape == shape
    own, own_mean = covariance_of(part)
    torch.testing.assert_close(own, covariance[inside[:, None], inside], rtol=1e-4, atol=1e-4 * float(own.max()))
    torch.testing.assert_close(own_mean, mean[inside], rtol=1e-5, atol=1e-6)


def test_the_whole_itself_is_its_own_part_and_a_part_of_a_bounded_one_is_bounded():
    whole = WHOLE["power law"]
    assert marginal(whole, whole.shape) is whole
    low, high = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    part = marginal(Bounded(whole, low, high), (3, 2, 2))
    assert isinstance(part, Bounded)
    z = torch.randn((1, 3, 2, 2))
    assert torch.equal(part.base.image(z), marginal(whole, (3, 2, 2)).image(z))


def test_a_part_too_large_for_its_covariance_is_the_periodic_gaussian_nearest_to_it():
    whole, shape = WHOLE["power law, large"], (1, 65, 70)
    part = marginal(whole, shape)
    assert isinstance(part, FittedSpectrum)
    # Of all periodic covariances the nearest takes, for each way around, the mean of the part's along it.
    _, height, width = shape
    z = torch.zeros((1, *shape), dtype=torch.float64)
    z[0, 0, 0, 0] = 1
    row = part.linear(part.linear(z))[0, 0]
    delta = torch.zeros((1, *whole.shape), dtype=torch.float64)
    delta[0, 0, 0, 0] = 1
    exact = whole.linear(whole.linear(delta))[0, 0]
    for down, right in ((0, 0), (0, 1), (3, 0), (7, 9), (64, 3), (40, 69)):
        expected = 0.0
        for weight, y in ((height - down, down), (down, down - height)):
            for share, x in ((width - right, right), (right, right - width)):
                expected += weight * share / (height * width) * float(exact[y, x])
        assert row[down, right].item() == pytest.approx(expected, abs=1e-4 * float(exact[0, 0]))
    assert part.power / part.dimension == pytest.approx(whole.sigma**2, rel=1e-4)
    z = torch.randn((2, *shape), dtype=torch.float64)
    torch.testing.assert_close(part.whiten(part.image(z)), z, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 7, 8), (3, 6, 9), (1, 6, 8), (3, 0, 2)])
def test_a_part_that_is_none_is_refused_with_both_shapes(shape):
    with pytest.raises(ScoreError, match=r"of images of shape \(3, 6, 8\); fit the reference to larger images"):
        marginal(WHOLE["white"], shape)


def test_the_power_law_falls_off_beyond_its_cutoff_and_keeps_its_deviation():
    plain, cut = PowerLaw.of((3, 16, 24), 0.7), PowerLaw.of((3, 16, 24), 0.7, cutoff=4.0)
    ratio = cut.spectrum / plain.spectrum
    frequency = cycles(16, 24)[:, :13]
    response = (1 + (frequency / 4) ** 8).rsqrt().float()
    torch.testing.assert_close(ratio / ratio[0, 0], response, rtol=1e-4, atol=1e-6)
    assert cut.power == pytest.approx(plain.power)
    covariance, _ = covariance_of(cut)
    torch.testing.assert_close(covariance.diagonal(), torch.full((3 * 16 * 24,), 0.49).double(), rtol=1e-4, atol=0)
    z = torch.randn((2, 3, 16, 24), dtype=torch.float64)
    torch.testing.assert_close(cut.whiten(cut.image(z)), z, rtol=0, atol=1e-8)


@pytest.mark.parametrize("fitted", [WHOLE["fitted"], WHOLE["spectrum"]], ids=["covariance", "spectrum"])
def test_a_fitted_reference_loses_what_lies_beyond_its_cutoff(fitted):
    cut = low_passed(fitted, 1.5)
    assert type(cut) is type(fitted)
    size = fitted.dimension
    response = low_pass(6, 8, 1.5)
    basis = torch.eye(size, dtype=torch.float64).view(size, *fitted.shape)
    low = torch.fft.ifft2(torch.fft.fft2(basis) * response).real.flatten(1)
    whole, mean = covariance_of(fitted)
    own, own_mean = covariance_of(cut)
    torch.testing.assert_close(own, low.T @ whole @ low, rtol=1e-3, atol=1e-4 * float(whole.max()))
    assert torch.equal(own_mean, mean)
    z = torch.randn((2, *fitted.shape), dtype=torch.float64)
    torch.testing.assert_close(cut.whiten(cut.image(z)), z, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, math.inf, math.nan])
def test_a_cutoff_that_is_no_frequency_is_refused(cutoff):
    with pytest.raises(ScoreError, match="cutoff"):
        PowerLaw.of((1, 4, 4), 1.0, cutoff=cutoff)
