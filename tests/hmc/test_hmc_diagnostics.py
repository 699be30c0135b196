"""The record of the chains, and what it says about them: from processes whose answers are known."""

import math
import warnings

import pytest
import torch
from hmc_targets import parameters, ridges, streams

from raygen.hmc import Diagnostics, Kernel, Trace, diagnose, draw, potential


def autoregressive(correlation, iterations, chains, seed=0):
    """Stationary x_t = r x_(t-1) + sqrt(1 - r^2) e_t, shape (T, N): ESS = T N (1 - r) / (1 + r)."""
    noise = torch.randn((iterations, chains), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = [noise[0]]
    for row in noise[1:]:
        rows.append(correlation * rows[-1] + math.sqrt(1 - correlation**2) * row)
    return torch.stack(rows)


def trace(score, *, energy=None, projections=None, acceptance=None, diverged=None):
    like = autoregressive(0.0, *score.shape, seed=9)
    return Trace(
        score=score,
        energy=like if energy is None else energy,
        projections=like[:, :, None].repeat(1, 1, 2) if projections is None else projections,
        acceptance=torch.ones_like(score) if acceptance is None else acceptance,
        diverged=torch.zeros(score.shape, dtype=torch.bool) if diverged is None else diverged,
    )


@pytest.mark.parametrize("correlation", [-0.3, 0.0, 0.5, 0.9])
def test_mixed_chains_have_an_r_hat_of_one_and_the_effective_size_of_their_correlation(correlation):
    (found,) = diagnose(trace(autoregressive(correlation, 4000, 4)), 4)
    assert found.r_hat == pytest.approx(1, abs=0.01)
    assert found.ess_bulk == pytest.approx(16_000 * (1 - correlation) / (1 + correlation), rel=0.15)
    assert found.ess_tail > 0


def test_the_bulk_does_not_depend_on_the_scale_of_the_score():
    score = autoregressive(0.6, 500, 4)
    (plain,), (other,) = diagnose(trace(score), 4), diagnose(trace(score.exp()), 4)
    assert other.r_hat == pytest.approx(plain.r_hat) and other.ess_bulk == pytest.approx(plain.ess_bulk)


def test_chains_far_apart_have_a_large_r_hat():
    score = autoregressive(0.3, 400, 4) + torch.tensor([0.0, 0, 0, 5])
    (found,) = diagnose(trace(score), 4)
    assert found.r_hat > 1.4 and found.ess_bulk < 50
    assert not found.converged(r_hat=1.05, ess=50)


def test_chains_on_their_way_have_a_large_r_hat_though_they_go_together():
    score = autoregressive(0.0, 400, 4) + torch.linspace(0, 8, 400)[:, None]
    assert diagnose(trace(score), 4)[0].r_hat > 1.4


def test_positions_apart_are_seen_though_the_score_agrees():
    apart = autoregressive(0.0, 400, 4)[:, :, None].repeat(1, 1, 3)
    apart[:, 2, 1] += 6
    (found,) = diagnose(trace(autoregressive(0.0, 400, 4), projections=apart), 4)
    assert found.r_hat < 1.02
    assert found.r_hat_projections > 1.4
    assert not found.converged(r_hat=1.05, ess=50)


def test_each_node_has_its_own_diagnostics():
    score = torch.cat([autoregressive(0.0, 400, 4), autoregressive(0.0, 400, 4) + torch.arange(4) * 5], dim=1)
    acceptance = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.3, 0.3]).expand(400, 8)
    diverged = torch.zeros((400, 8), dtype=torch.bool)
    diverged[3, 1] = diverged[7, 6] = diverged[8, 6] = True
    first, second = diagnose(trace(score, acceptance=acceptance, diverged=diverged), 4)
    assert first.r_hat < 1.02 and second.r_hat > 1.4
    assert (first.acceptance_rate, second.acceptance_rate) == (pytest.approx(0.5), pytest.approx(0.2))
    assert (first.divergences, second.divergences) == (1, 2)


@pytest.mark.parametrize("score", [
    torch.full((50, 4), 3.25),
    torch.full((50, 4), math.nan),
    torch.tensor([1.0, math.inf]).repeat(25)[:, None].repeat(1, 4),
    torch.randn((3, 4), generator=torch.Generator().manual_seed(0)),
], ids=["constant", "nan", "infinite", "too few"])  # fmt: skip
def test_what_is_not_defined_is_nan_without_a_warning(score):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = diagnose(trace(score, energy=score), 4)
    assert math.isnan(found.r_hat) and math.isnan(found.ess_bulk) and math.isnan(found.ess_tail)
    assert math.isnan(found.bfmi)
    assert not found.converged(r_hat=1e9, ess=0)


def test_chains_that_never_moved_do_not_count_as_converged():
    stuck = torch.arange(4.0).expand(100, 4).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = diagnose(trace(stuck, projections=stuck[:, :, None]), 4)
    assert not found.converged(r_hat=1.05, ess=1)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_bfmi_is_the_power_of_the_energys_changes_over_its_variance(correlation):
    # Of an autoregressive energy: 2 (1 - r).
    energy = autoregressive(correlation, 20_000, 2)
    (found,) = diagnose(trace(autoregressive(0, 20_000, 2), energy=energy), 2)
    assert found.bfmi == pytest.approx(2 * (1 - correlation), rel=0.05)


def test_bfmi_is_that_of_the_worst_chain():
    energy = torch.cat([autoregressive(0, 5000, 1), autoregressive(0.95, 5000, 1)], dim=1)
    (found,) = diagnose(trace(autoregressive(0, 5000, 2), energy=energy), 2)
    assert found.bfmi == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(("r_hat", "projections", "ess", "expected"), [
    (1.01, 1.01, 60, True), (1.06, 1.01, 60, False), (1.01, 1.06, 60, False), (1.01, 1.01, 40, False),
    (math.nan, 1.0, 60, False), (1.0, math.nan, 60, False), (1.0, 1.0, math.nan, False),
])  # fmt: skip
def test_convergence_needs_both_r_hats_and_the_effective_size(r_hat, projections, ess, expected):
    found = Diagnostics(r_hat, projections, ess, 1.0, 1.0, 0.6, 0)
    assert found.converged(r_hat=1.05, ess=50) is expected


def test_an_undefined_projection_is_not_passed_over():
    projections = autoregressive(0.0, 100, 4)[:, :, None].repeat(1, 1, 3)
    projections[:, :, 1] = 2.0
    assert math.isnan(diagnose(trace(autoregressive(0.0, 100, 4), projections=projections), 4)[0].r_hat_projections)


# ---- the trace


def recorded(first, iterations, state=None):
    kernel, target, noise = Kernel("rotation", 3), ridges(5), streams(3, "a", "b")
    state = kernel.init(target, noise.start((5,))) if state is None else state
    seen = []
    known = parameters(6, 0.3, 1.2)
    end, trace_ = draw(kernel, target, state, known, noise, first=first, iterations=iterations,
                       on_step=lambda count, state, info: seen.append((count, state, info)))  # fmt: skip
    return state, end, trace_, seen, known, noise


def test_the_trace_records_every_state():
    start, end, found, seen, known, noise = recorded(7, 12)
    assert [count for count, _, _ in seen] == list(range(1, 13))
    assert torch.equal(found.score, torch.stack([state.score for _, state, _ in seen]))
    assert torch.equal(found.acceptance, torch.stack([info.acceptance for _, _, info in seen]))
    assert torch.equal(found.diverged, torch.stack([info.diverged for _, _, info in seen]))
    assert torch.equal(end.position, seen[-1][1].position)
    before = [start, *(state for _, state, _ in seen)]
    for step in range(12):
        state, momentum = before[step], noise.noise(7 + step, (5,)).momentum
        energy = 0.5 * (state.position.square().sum(1) + momentum.square().sum(1)) - 1.2 * state.score
        torch.testing.assert_close(found.energy[step], energy)
        torch.testing.assert_close(potential(state, known.tilt), energy - 0.5 * momentum.square().sum(1))
    assert found.energy.dtype == torch.float64


def test_projections_are_on_fixed_unit_vectors():
    _, _, found, seen, _, _ = recorded(0, 40)
    positions = torch.stack([state.position for _, state, _ in seen]).flatten(0, 1)
    directions = torch.linalg.lstsq(positions, found.projections.flatten(0, 1)).solution
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(directions.shape[1], dtype=torch.float64))
    torch.testing.assert_close(positions @ directions, found.projections.flatten(0, 1))
    other = recorded(100, 40)
    again = torch.linalg.lstsq(
        torch.stack([state.position for _, state, _ in other[3]]).flatten(0, 1), other[2].projections.flatten(0, 1)
    ).solution
    torch.testing.assert_close(again, directions)


def test_draws_continued_are_the_same_to_the_bit():
    _, whole, trace_, _, _, _ = recorded(5, 10)
    _, half, front, _, _, _ = recorded(5, 4)
    _, end, back, _, _, _ = recorded(9, 6, half)
    assert torch.equal(end.position, whole.position)
    for name in Trace.__dataclass_fields__:
        assert torch.equal(torch.cat([getattr(front, name), getattr(back, name)]), getattr(trace_, name))
