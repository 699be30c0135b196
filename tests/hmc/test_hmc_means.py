"""The mean of a chain: over which trajectories it runs, and closed forms that it meets with less variance."""

import pytest
import torch

from raygen.hmc import ChainState, TailMean


def taken_in(positions, gradients, tilt):
    """The mean after chains were at ``positions`` (T, N, D) with ``gradients``."""
    found = None
    for position, gradient in zip(positions, gradients, strict=True):
        chains = ChainState(position, position[:, 0], gradient)
        found = (found or TailMean.begin(chains)).add(chains, tilt)
    return found


@pytest.mark.parametrize("made", [1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 100, 255, 256])
def test_the_mean_runs_over_the_last_half_to_three_quarters(made):
    positions = torch.arange(1.0, made + 1)[:, None, None]
    tilt = torch.ones(1)
    mean = taken_in(positions, positions, tilt).mean(tilt).item()
    last = 2 * mean - made  # a mean of consecutive numbers up to ``made`` begins there
    covered = made + 1 - last
    assert last == int(last)
    assert made / 2 <= covered <= max(0.75 * made + 1, 1)


def test_of_a_linear_score_hardly_any_noise_is_left():
    # The pull is the mean everywhere; c falls short of 1 only by the noise that is taken for a bias.
    generator = torch.Generator().manual_seed(0)
    slope, tilt = torch.linspace(-1, 1, 10_000, dtype=torch.float64), torch.tensor([0.5, 3.0], dtype=torch.float64)
    truth = tilt[:, None] * slope
    positions = truth + torch.randn((15, 2, len(slope)), generator=generator, dtype=torch.float64)
    error = taken_in(positions, slope.expand(15, 2, -1), tilt).mean(tilt) - truth
    plain = positions[3:].mean(0) - truth
    assert (error.square().sum(1) < 0.005 * plain.square().sum(1)).all()


@pytest.mark.parametrize("sharpest", [0.5, 5.0, 100.0])
def test_of_a_quadratic_score_the_mean_is_right_and_has_the_least_variance_that_one_weight_gives(sharpest):
    # f = a.z - sum s_i z_i^2 / 2 at tilt 1: N(a / h, 1 / h) with h = 1 + s. One weight c leaves sum (1 - c h)^2 / h of
    # the variance sum 1 / h: least at c = D / sum h.
    generator = torch.Generator().manual_seed(1)
    chains, dimension, trajectories = 60, 4000, 15
    slope = torch.linspace(-2, 2, dimension, dtype=torch.float64)
    stiffness = sharpest * torch.rand(dimension, generator=generator, dtype=torch.float64)
    h = 1 + stiffness
    noise = torch.randn((trajectories, chains, dimension), generator=generator, dtype=torch.float64)
    positions, tilt = slope / h + noise / h.sqrt(), torch.ones(chains, dtype=torch.float64)
    found = taken_in(positions, slope - stiffness * positions, tilt)
    mean = found.mean(tilt)
    assert found.weight.mean().item() == pytest.approx((dimension / h.sum()).item(), rel=0.1)
    plain = positions[3:].mean(0)  # the windows 4 to 7 and 8 to 15
    error, plain_error = ((one - slope / h).square().mean().item() for one in (mean, plain))
    left = 1 - dimension**2 / (h.sum() * (1 / h).sum())
    assert error / plain_error == pytest.approx(left.item(), rel=0.1)
    # No bias, though each chain's weight is chosen by the noise that it takes away.
    spread = mean.std(0) / chains**0.5
    assert ((mean.mean(0) - slope / h).abs() / spread).max() < 5


def test_a_chain_that_is_far_from_its_target_keeps_the_mean_of_its_positions():
    # f = a.z, of which the target is N(a, I): the chain stays at 0, so its pull is right and its identity is broken.
    generator = torch.Generator().manual_seed(3)
    positions, tilt = torch.randn((15, 1, 1000), generator=generator), torch.ones(1)
    slope = torch.full((1000,), 3.0)
    found = taken_in(positions, slope.expand(15, 1, 1000), tilt)
    assert found.weight.item() < 0.02
    assert torch.allclose(found.mean(tilt), positions[3:].mean(0), atol=0.1)


def test_each_chain_weighs_for_itself_and_keeps_its_mean_when_it_is_taken_out():
    generator = torch.Generator().manual_seed(2)
    positions, tilt = torch.randn((9, 3, 4), generator=generator), torch.tensor([1.0, 2.0, 3.0])
    gradients = torch.stack([torch.ones(9, 4), -positions[:, 1], 100 * torch.randn((9, 4), generator=generator)], 1)
    found = taken_in(positions, gradients, tilt)
    assert found.weight[2] < 0.05 < found.weight[1] < found.weight[0]
    chosen = torch.tensor([2, 0])
    alone = taken_in(positions[:, chosen], gradients[:, chosen], tilt[chosen])
    assert torch.equal(found.rows(chosen).mean(tilt[chosen]), alone.mean(tilt[chosen]))
    assert torch.equal(found.mean(tilt)[chosen], alone.mean(tilt[chosen]))
