"""Trajectories of unequal length, and how long they ought to be."""

import math
import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from hmc_targets import Target, assert_normal_moments, quadratic, ridges, streams
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raygen.hmc import HmcSettings, Kernel, Parameters, WarmUp, begin, draw, warm_up
from raygen.hmc.integrators import INTEGRATORS, follow
from raygen.hmc.trajectory import TrajectoryLength

INTEGRATOR = st.sampled_from(sorted(INTEGRATORS))
STEPS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@dataclass(frozen=True)
class Kept:
    """A tilt that nothing changes."""

    tilt: Tensor

    def observe(self, gradient):
        return self


class Rowed(Target):
    """Curvatures of its own for each row; counts the rows that it is asked for."""

    def __init__(self, curvature, counts=None, force=1.0):
        self.curvature, self.counts = curvature, counts if counts is not None else {"value": 0, "gradient": 0}
        wide = curvature[:, None]
        super().__init__(lambda z: -0.5 * (wide * z.square()).sum(1), lambda z: -force * wide * z, None)
        self.force, self.cheap_forces = force, force != 1.0

    def value(self, z):
        self.counts["value"] += len(z)
        return super().value(z)

    def gradient(self, z):
        self.counts["gradient"] += len(z)
        return super().gradient(z)

    def value_and_gradient(self, z):
        self.counts["gradient"] += len(z)
        return super().value_and_gradient(z)

    def rows(self, chosen):
        return Rowed(self.curvature[chosen], self.counts, self.force)


def rowed(count, force=1.0):
    return Rowed(torch.linspace(0.3, 3.0, count, dtype=torch.float64), force=force)


def parts(count, target):
    noise = streams(count)
    start = Kernel().init(target, noise.start((5,)))
    target.counts.update(value=0, gradient=0)
    known = Parameters(torch.linspace(0.1, 0.4, count, dtype=torch.float64), torch.full((count,), 1.3).double())
    return start, noise.noise(0, (5,)).momentum, known


# ---- following


@settings(max_examples=40, deadline=None)
@given(name=INTEGRATOR, steps=STEPS, force=st.sampled_from([1.0, 0.9]))
def test_each_row_goes_as_far_as_it_would_alone(name, steps, force):
    target = rowed(len(steps), force)
    start, momentum, known = parts(len(steps), target)
    together = follow(INTEGRATORS[name], target, start, momentum, known, torch.tensor(steps))
    for row, count in enumerate(steps):
        one = torch.tensor([row])
        alone = INTEGRATORS[name](target.rows(one), start.rows(one), momentum[one], known.rows(one), count)
        for got, expected in (
            (together.end.position, alone.end.position), (together.end.score, alone.end.score),
            (together.end.gradient, alone.end.gradient), (together.momentum, alone.momentum),
            (together.work, alone.work),
        ):  # fmt: skip
            torch.testing.assert_close(got[row : row + 1], expected, rtol=1e-11, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(name=INTEGRATOR, steps=STEPS)
def test_no_row_is_evaluated_after_it_has_arrived(name, steps):
    target = rowed(len(steps))
    start, momentum, known = parts(len(steps), target)
    follow(INTEGRATORS[name], target, start, momentum, known, torch.tensor(steps))
    assert target.counts["gradient"] == sum(steps)


@settings(max_examples=40, deadline=None)
@given(name=INTEGRATOR, steps=STEPS, force=st.sampled_from([1.0, 0.8]))
def test_trajectories_of_unequal_length_are_reversible(name, steps, force):
    target = rowed(len(steps), force)
    start, momentum, known = parts(len(steps), target)
    there = follow(INTEGRATORS[name], target, start, momentum, known, torch.tensor(steps))
    back = follow(INTEGRATORS[name], target, there.end, -there.momentum, known, torch.tensor(steps))
    torch.testing.assert_close(back.end.position, start.position, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(-back.momentum, momentum, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back.work, -there.work, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(INTEGRATORS))
def test_exact_draws_stay_exact_draws_whatever_each_chains_length(name):
    mix = torch.tensor([[1.0, 0.4], [0.4, 2.0]], dtype=torch.float64)
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + 1.5 * mix)
    target, chains = quadratic(mix), 4000
    steps = torch.arange(chains) % 5 + 1
    known = Parameters(torch.full((chains,), 0.5).double(), torch.full((chains,), 1.5).double(), steps)
    noise, kernel = streams(chains), Kernel(name, steps=3)
    exact = streams(chains, "exact").start((2,)) @ torch.linalg.cholesky(covariance).T
    state = kernel.init(target, exact)
    for iteration in range(10):
        state, info = kernel.step(state, known, target, noise.noise(iteration, (2,)))
        assert torch.equal(info.steps, steps)
    assert info.acceptance.mean() < 0.995  # else nothing hangs on it
    assert_normal_moments(state.position, torch.zeros(2).double(), covariance)


# ---- lengths


def found_length(target, tilt, *, nodes=1, chains=32, iterations=600, dimension=20, **plan):
    kernel, noise = Kernel(steps=64, jitter=0.0), streams(chains, *map(str, range(nodes)))
    rule = Kept(torch.full((nodes,), tilt, dtype=torch.float64))
    how = WarmUp(iterations, anneal=0.0, **plan)
    seen = []
    state = begin(how, kernel, kernel.init(target, noise.start((dimension,))), rule)
    _, found = warm_up(how, kernel, target, noise, state, lambda state, info: seen.append(state))
    return seen[-1].length, found


def test_chees_finds_the_best_length_of_the_reference_itself():
    # Without a tilt the rotation is exact: |z|^2 changes by sin(T)^2, a linear score by 1 - cos(T), each over T. Where
    # the relative slopes cancel, 2 T / tan(T) + T / tan(T / 2) = 2.
    slope = torch.ones(20, dtype=torch.float64)
    target = Target(lambda z: z @ slope, slope.expand_as)
    low, high = 1.0, 1.57
    for _ in range(60):
        best = 0.5 * (low + high)
        low, high = (best, high) if 2 * best / math.tan(best) + best / math.tan(best / 2) > 2 else (low, best)
    length, _ = found_length(target, 1e-12, step_size=0.03, angle=0.7, chees=True)
    assert length.log_average.exp().item() == pytest.approx(best, rel=0.06)


def test_chees_goes_less_far_in_a_narrower_target():
    # -c |z|^2 / 2 at tilt 1: all periods are shorter by sqrt(1 + c). It starts short of the first largest value.
    eye = torch.eye(20, dtype=torch.float64)
    wide, _ = found_length(quadratic(0.001 * eye), 1.0, step_size=0.03, angle=0.9, chees=True)
    narrow, _ = found_length(quadratic(8.0 * eye), 1.0, step_size=0.01, angle=0.3, chees=True)
    assert narrow.log_average.exp() / wide.log_average.exp() == pytest.approx(1 / 3, rel=0.12)


def test_a_given_angle_is_kept_by_tame_nodes_and_cut_short_for_stiff_ones():
    scale = torch.tensor([0.01, 400.0], dtype=torch.float64).repeat_interleave(16)
    kernel, noise = Kernel(steps=8), streams(16, "0", "1")
    plan, target = WarmUp(200, angle=1.3), Rowed(scale)
    state = begin(plan, kernel, kernel.init(target, noise.start((20,))), Kept(torch.ones(2, dtype=torch.float64)))
    _, found = warm_up(plan, kernel, target, noise, state)
    steps = found.steps.view(2, 16)
    assert (steps[0] <= 2).all() and (steps[1] == 8).all()
    assert found.step_size[0] * steps[0, 0] == pytest.approx(1.3)
    assert found.step_size[16] * steps[1, 0] < 1.3


def test_without_an_angle_all_chains_take_the_kernels_steps():
    kernel, noise = Kernel(steps=5), streams(4)
    plan = WarmUp(10)
    state = begin(plan, kernel, kernel.init(ridges(3), noise.start((3,))), Kept(torch.ones(1, dtype=torch.float64)))
    _, found = warm_up(plan, kernel, ridges(3), noise, state)
    assert found.steps is None


@given(step_size=st.floats(1e-3, 1.5), length=st.floats(0.05, 1.57), most=st.integers(1, 600))
def test_frozen_steps_make_the_length_exactly_or_as_much_of_it_as_they_may(step_size, length, most):
    rule = TrajectoryLength.begin(1, torch.zeros(1).double(), length=length, longest=1.58, most_steps=most)
    size, steps = (values.item() for values in rule.frozen(torch.tensor([step_size], dtype=torch.float64)))
    assert 1 <= steps <= most and size <= step_size
    if length / step_size <= 0.79 * most:  # the next number in use
        assert steps * size == pytest.approx(length, rel=1e-9)
        assert steps <= max(1.25 * length / step_size, length / step_size + 1)


def updated(rule, target, kernel, positions, *, break_row=None):
    noise = streams(len(positions) // len(rule.log_length), *map(str, range(len(rule.log_length))))
    state = kernel.init(target, positions)
    known = Parameters(torch.full((len(positions),), 0.2).double(), torch.ones(len(positions)).double())
    _, info = kernel.step(state, known, target, noise.noise(0, positions.shape[1:]))
    if break_row is not None:
        hurt = info.proposal.position.clone()
        hurt[break_row] = math.nan
        weight = info.acceptance.clone()
        weight[break_row] = 0.0
        score = info.proposal.score.clone()
        score[break_row] = math.inf
        info = replace(info, acceptance=weight, proposal=replace(info.proposal, position=hurt, score=score))
    return rule.update(state, info), info


def test_a_chain_that_fails_has_no_voice_and_other_nodes_hear_nothing():
    positions = streams(6, "a", "b").start((7,))
    rule = TrajectoryLength.begin(2, positions, length=1.0, longest=1.57, most_steps=16)
    whole, _ = updated(rule, ridges(7), Kernel(steps=4), positions)
    hurt, _ = updated(rule, ridges(7), Kernel(steps=4), positions, break_row=2)
    assert torch.equal(whole.log_length[1:], hurt.log_length[1:])
    assert hurt.log_length.isfinite().all() and hurt.criteria.isfinite().all() and hurt.slopes.isfinite().all()
    moved = positions.clone()
    moved[2] += 0.5  # where the failed chain stood does not matter either
    again, _ = updated(rule, ridges(7), Kernel(steps=4), moved, break_row=2)
    torch.testing.assert_close(again.criteria, hurt.criteria, rtol=1e-12, atol=0)


def test_a_single_chain_learns_from_its_score_alone_and_stays_finite():
    length, _ = found_length(ridges(20), 1.0, chains=1, iterations=50, angle=1.0, chees=True)
    assert length.criteria[0].item() == 0 and length.log_length.isfinite().all()


@pytest.mark.parametrize("stop", [1, 9, 19])
def test_an_adapted_length_continued_from_a_saved_state_is_the_same_to_the_bit(stop):
    plan, kernel, target, noise = WarmUp(20, angle=1.2, chees=True), Kernel(steps=12), ridges(3), streams(3, "0", "1")
    begun = begin(plan, kernel, kernel.init(target, noise.start((3,))), Kept(torch.ones(2, dtype=torch.float64)))
    saved = []
    chains, found = warm_up(plan, kernel, target, noise, begun, lambda state, info: saved.append(pickle.dumps(state)))
    again, parameters = warm_up(plan, kernel, target, noise, pickle.loads(saved[stop - 1]))
    assert torch.equal(again.position, chains.position) and torch.equal(parameters.steps, found.steps)


def test_the_settings_ask_for_an_angle_for_chees_or_for_steps():
    assert HmcSettings(steps=9).make_warm_up().angle == HmcSettings().angle
    assert HmcSettings(trajectory="chees").make_warm_up().chees
    assert HmcSettings(trajectory="steps").make_warm_up().angle is None


def test_info_counts_the_gradients_of_each_chain():
    target, noise, kernel = rowed(6), streams(3, "0", "1"), Kernel(steps=8)
    plan = WarmUp(15, angle=1.3)
    chains = kernel.init(target, noise.start((5,)))
    target.counts["gradient"] = 0
    spent = torch.zeros(6, dtype=torch.int64)

    def count(_, info):
        nonlocal spent
        spent = spent + info.steps

    state, found = warm_up(
        plan, kernel, target, noise, begin(plan, kernel, chains, Kept(torch.ones(2).double())), count
    )
    draw(kernel, target, state, found, noise, first=15, iterations=4,
         on_step=lambda number, state, info: count(state, info))  # fmt: skip
    assert int(spent.sum()) == target.counts["gradient"]
