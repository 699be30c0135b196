"""Superchains, nested R-hat, and effective sample size by gradients spent."""

import math

import pytest
import torch
from hmc_targets import linear, parameters, quadratic, streams

from raygen.errors import SettingsError
from raygen.hmc import Kernel, Trace, diagnose, draw


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trace(score):
    return Trace(score, score, score[:, :, None], torch.ones_like(score), torch.zeros_like(score, dtype=torch.bool))


def nested(score, superchains):
    return diagnose(trace(score), score.shape[1], superchains)[0].r_hat_nested


# ---- starts


def test_the_chains_of_a_superchain_share_a_start_and_no_others_do():
    starts = streams(12, "a", "b").start((3,), superchains=4)
    assert starts.shape == (24, 3)
    for group in range(8):
        own = starts[3 * group : 3 * group + 3]
        assert torch.equal(own, own[:1].expand(3, 3))
    assert len(starts.unique(dim=0)) == 8
    assert torch.equal(starts[::3], streams(12, "a", "b").start((3,))[::3])


def test_as_many_superchains_as_chains_have_the_starts_of_chains():
    assert torch.equal(streams(6, "a").start((3,), superchains=6), streams(6, "a").start((3,)))


@pytest.mark.parametrize("superchains", [0, 1, 5, 24, -2])
def test_superchains_that_cannot_be_made_are_refused_by_their_number(superchains):
    with pytest.raises(SettingsError, match=f"superchains = {superchains} for 12 chains"):
        streams(12, "a").start((3,), superchains=superchains)
    with pytest.raises(SettingsError, match=f"superchains = {superchains} for 12 chains"):
        diagnose(trace(normal(10, 12)), 12, superchains)


# ---- nested R-hat


def test_nested_r_hat_is_one_for_independent_draws_and_not_defined_without_superchains():
    assert nested(normal(200, 32), 8) == pytest.approx(1, abs=0.005)
    assert math.isnan(nested(normal(200, 32), None))


def test_nested_r_hat_is_the_ratio_of_deviations_of_superchain_means():
    # Superchain means of variance v over draws of variance 1 within: sqrt(1 + v).
    offsets = torch.tensor([-1.0, 1.0, -1.0, 1.0]).double().repeat_interleave(64)
    offsets = 0.3 * offsets
    assert nested(normal(400, 256) + offsets, 4) == pytest.approx(math.sqrt(1 + 0.09 * 4 / 3), rel=0.02)


def test_many_short_chains_have_converged_though_each_is_too_short_alone():
    # A stationary process of long memory: 8 draws of it say little about their own chain, 1024 chains a lot together.
    rows = [normal(1024, seed=1)]
    for step in range(7):
        rows.append(0.95 * rows[-1] + math.sqrt(1 - 0.95**2) * normal(1024, seed=2 + step))
    (found,) = diagnose(trace(torch.stack(rows)), 1024, 8)
    assert found.r_hat > 1.5 and found.r_hat_nested < 1.02


def test_superchains_that_still_remember_their_starts_are_seen():
    kernel, target = Kernel("rotation", 2), quadratic(0.1 * torch.eye(3).double())
    noise = streams(256, "node")

    def found(step_size, skipped):
        state = kernel.init(target, noise.start((3,), superchains=8) + 4)
        settings = parameters(256, step_size, 1.0)
        for iteration in range(skipped):
            state, _ = kernel.step(state, settings, target, noise.noise(iteration, (3,)))
        _, record = draw(kernel, target, state, settings, noise, first=skipped, iterations=8, on_step=lambda *_: None)
        return diagnose(record, 256, 8)[0].r_hat_nested

    assert found(0.02, 0) > 1.5
    assert found(0.5, 20) < 1.05


# ---- effective sample size by gradients


def test_the_trace_keeps_the_potential_of_each_state():
    kernel, slope = Kernel("rotation", 2), torch.ones(2).double()
    state = kernel.init(linear(slope), streams(3, "a").start((2,)))
    seen = []
    draw(kernel, linear(slope), state, parameters(3, 0.3, 2.0), streams(3, "a"), first=0, iterations=5,
         on_step=lambda _, now, __: seen.append(0.5 * now.position.square().sum(1) - 2 * now.score))  # fmt: skip
    _, record = draw(kernel, linear(slope), state, parameters(3, 0.3, 2.0), streams(3, "a"), first=0, iterations=5,
                     on_step=lambda *_: None)  # fmt: skip
    torch.testing.assert_close(record.potential, torch.stack(seen))
