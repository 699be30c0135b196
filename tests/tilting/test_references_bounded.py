"""Bounded references: each is its Gaussian through the logistic function, exactly, with the density that makes."""

import math

import pytest
import torch

from raygen.errors import ScoreError
from raygen.tilting import (
    Bounded,
    Fitted,
    FittedSpectrum,
    PowerLaw,
    Provenance,
    WhitenedScore,
    WhiteNoise,
    load_reference,
    save_reference,
    signal,
)

IMAGES = torch.randn((40, 3, 4, 5), generator=torch.Generator().manual_seed(0))
LOW, HIGH = torch.tensor([-2.0, -1.0, 0.5]).view(3, 1, 1), torch.tensor([1.0, 0.0, 3.5]).view(3, 1, 1)
BASES = {
    "white": WhiteNoise((3, 4, 5), 1.3),
    "power law": PowerLaw.of((3, 4, 5), 1.0),
    "fitted": Fitted.of(IMAGES),
    "spectrum": FittedSpectrum.of(IMAGES),
}
EACH = pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())


def normal(count, dtype=torch.float64):
    return torch.randn((count, 3, 4, 5), generator=torch.Generator().manual_seed(1), dtype=dtype)


@EACH
def test_pixels_lie_between_the_bounds_and_whitening_undoes_the_image(base):
    reference = Bounded(base, LOW, HIGH)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 3e-3)):
        z = normal(5, dtype)
        x = reference.image(z)
        assert x.dtype == dtype and reference.shape == (3, 4, 5) and reference.dimension == 60
        assert (x > LOW).all() and (x < HIGH).all()
        torch.testing.assert_close(reference.whiten(x), z, rtol=0, atol=tolerance)
    expected = LOW + (HIGH - LOW) / (1 + (-base.image(normal(5))).exp())
    torch.testing.assert_close(reference.image(normal(5)), expected)


@EACH
def test_the_log_density_is_the_gaussians_over_the_maps_determinant(base):
    reference = Bounded(base, LOW, HIGH)
    z = normal(3)
    x = reference.image(z)
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda one: reference.image(one[None])[0].flatten(), z[row])
        volume = torch.linalg.slogdet(jacobian.reshape(60, 60))[1]
        standard = -0.5 * (z[row].square().sum() + 60 * math.log(2 * math.pi))
        assert reference.log_density(x)[row].item() == pytest.approx((standard - volume).item(), abs=1e-4)


def test_the_density_of_one_pixel_is_the_logit_normals_and_integrates_to_one():
    reference = Bounded(WhiteNoise((1, 1, 1), 0.8), torch.tensor(-1.0).view(1, 1, 1), torch.tensor(3.0).view(1, 1, 1))
    x = torch.linspace(-1, 3, 20_001, dtype=torch.float64)[1:-1].view(-1, 1, 1, 1)
    density = reference.log_density(x).exp()
    u = (x.flatten() + 1) / 4
    expected = torch.distributions.Normal(0.0, 0.8).log_prob(torch.logit(u)).exp() / (u * (1 - u)) / 4
    torch.testing.assert_close(density, expected, rtol=1e-6, atol=1e-9)
    assert torch.trapezoid(density, x.flatten()).item() == pytest.approx(1, abs=1e-4)


def test_a_score_of_bounded_images_has_its_exact_gradient_in_z():
    reference = Bounded(BASES["power law"], LOW, HIGH)
    weight = normal(1)[0]
    score = WhitenedScore(lambda x: (x * weight).sum((1, 2, 3)) + x.square().sum((1, 2, 3)), reference)
    z = normal(2)
    value, gradient = score.value_and_gradient(z)
    way = normal(2).flip(0)
    step = 1e-5
    slope = (score.value(z + step * way) - score.value(z - step * way)) / (2 * step)
    torch.testing.assert_close((gradient * way).sum((1, 2, 3)), slope, rtol=1e-6, atol=1e-8)
    assert torch.equal(value, score.value(z))
    # Contrast is that of the Gaussian, in which the map is linear.
    torch.testing.assert_close(signal(gradient, reference), signal(gradient, BASES["power law"]))


@EACH
def test_draws_have_the_medians_and_quantiles_of_the_map(base):
    reference = Bounded(base, LOW, HIGH)
    x = reference.draw(4000, torch.Generator().manual_seed(2))
    y = base.draw(4000, torch.Generator().manual_seed(2))
    for share in (0.1, 0.5, 0.9):
        expected = LOW + (HIGH - LOW) * torch.sigmoid(y.quantile(share, 0))
        torch.testing.assert_close(x.quantile(share, 0), expected, rtol=0, atol=0.02)


@EACH
def test_a_bounded_reference_comes_back_from_its_file_bit_for_bit(base, tmp_path):
    reference = Bounded(base, LOW, HIGH)
    provenance = Provenance("photographs", "ab" * 32, 9, (3, 8, 10))
    save_reference(tmp_path / "file", reference, provenance)
    loaded, known = load_reference(tmp_path / "file", (3, 4, 5))
    assert isinstance(loaded, Bounded) and type(loaded.base) is type(base) and known == provenance
    assert torch.equal(loaded.image(normal(2)), reference.image(normal(2)))
    assert torch.equal(loaded.to("cpu").image(normal(2)), reference.image(normal(2)))


@pytest.mark.parametrize(("low", "high", "match"), [
    (HIGH, LOW, "the upper is not above the lower"),
    (LOW, LOW, "the upper is not above the lower"),
    (LOW, HIGH * math.inf, "not finite"),
    (LOW[0], HIGH, "bounds of shape"),
])  # fmt: skip
def test_bounds_that_bound_nothing_are_refused(low, high, match):
    with pytest.raises(ScoreError, match=match):
        Bounded(BASES["white"], low, high)


def test_bounds_of_a_bounded_reference_are_refused():
    with pytest.raises(ScoreError, match="a bounded reference of a bounded one"):
        Bounded(Bounded(BASES["white"], LOW, HIGH), LOW, HIGH)
