"""The score in whitened coordinates: its value, its gradient, its cheap forces."""

import pytest
import torch

from raygen.errors import ScoreError
from raygen.tilting import PowerLaw, WhitenedScore, WhiteNoise

REFERENCE = PowerLaw.of((3, 4, 5), 0.7)


def bumpy(x):
    return (x.flatten(1).sin() * torch.arange(1, x[0].numel() + 1, dtype=x.dtype)).sum(1) + x.amax((1, 2, 3))


def other(x):
    return x.square().sum((1, 2, 3))


def normal(count=4, dtype=torch.float64):
    return torch.randn((count, *REFERENCE.shape), generator=torch.Generator().manual_seed(2), dtype=dtype)


def derivative(score, z):
    leaf = z.clone().requires_grad_()
    value = score(REFERENCE.image(leaf))
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def test_value_and_gradient_are_those_of_automatic_differentiation():
    score, z = WhitenedScore(bumpy, REFERENCE), normal()
    value, gradient = derivative(bumpy, z)
    assert torch.equal(score.value(z), value)
    assert torch.equal(score.gradient(z), gradient)
    both = score.value_and_gradient(z)
    assert torch.equal(both[0], value) and torch.equal(both[1], gradient)
    assert not score.cheap_forces


def test_the_gradient_is_the_limit_of_differences():
    score, z = WhitenedScore(bumpy, REFERENCE), normal(1)
    gradient = score.gradient(z).flatten()
    steps = 1e-6 * torch.eye(60, dtype=torch.float64).view(60, *REFERENCE.shape)
    slopes = (score.value(z + steps) - score.value(z - steps)) / 2e-6
    torch.testing.assert_close(gradient, slopes, rtol=1e-6, atol=1e-6)


def test_cheap_forces_give_the_gradient_and_never_the_value():
    score, z = WhitenedScore(bumpy, REFERENCE, force=other), normal()
    assert score.cheap_forces
    value, gradient = bumpy(REFERENCE.image(z)), derivative(other, z)[1]
    assert torch.equal(score.value(z), value) and torch.equal(score.gradient(z), gradient)
    both = score.value_and_gradient(z)
    assert torch.equal(both[0], value) and torch.equal(both[1], gradient)


@pytest.mark.parametrize("force", [None, other])
def test_nothing_that_comes_back_holds_a_graph_and_nothing_given_is_changed(force):
    score, z = WhitenedScore(bumpy, REFERENCE, force=force), normal()
    before = z.clone()
    with torch.no_grad():
        results = (score.value(z), score.gradient(z), *score.value_and_gradient(z))
    assert not any(result.requires_grad for result in results)
    assert not z.requires_grad and torch.equal(z, before)


def test_a_row_of_nan_stays_in_its_row():
    score, z = WhitenedScore(bumpy, REFERENCE), normal()
    ill = z.clone()
    ill[1] = torch.nan
    (value, gradient), (spoilt, wrong) = score.value_and_gradient(z), score.value_and_gradient(ill)
    rest = torch.tensor([0, 2, 3])
    assert torch.equal(value[rest], spoilt[rest]) and torch.equal(gradient[rest], wrong[rest])
    assert spoilt[1].isnan() and wrong[1].isnan().any()


@pytest.mark.parametrize("force", [None, other])
def test_chains_of_another_shape_are_refused_in_one_line(force):
    score = WhitenedScore(bumpy, WhiteNoise((1, 4, 4), 1.0), force=force)
    z = torch.zeros((2, 1, 4, 5))
    for method in (score.value, score.value_and_gradient):
        with pytest.raises(ScoreError, match=r"\(1, 4, 5\).*\(1, 4, 4\)") as caught:
            method(z)
        assert "\n" not in str(caught.value)


class Scaled:
    """Each row its own slope; whether it can give some rows alone is a matter of the subclass."""

    def __init__(self, slopes):
        self.slopes = slopes

    def __call__(self, x):
        return self.slopes * x.flatten(1).square().sum(1)


class Rowed(Scaled):
    def rows(self, chosen):
        return type(self)(self.slopes[chosen])


@pytest.mark.parametrize("kind", [Scaled, Rowed])
@pytest.mark.parametrize("cheap", [False, True])
def test_some_rows_alone_have_the_values_and_gradients_that_they_have_among_all(kind, cheap):
    slopes = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    force = kind(0.9 * slopes) if cheap else None
    whole = WhitenedScore(kind(slopes), WhiteNoise((1, 2, 2), 1.5), force=force)
    z = torch.randn((4, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = torch.tensor([True, False, False, True])
    part = whole.rows(chosen)
    assert part.cheap_forces is cheap
    for got, expected in zip(part.value_and_gradient(z[chosen]), whole.value_and_gradient(z), strict=True):
        torch.testing.assert_close(got, expected[chosen])
    torch.testing.assert_close(part.gradient(z[chosen]), whole.gradient(z)[chosen])
