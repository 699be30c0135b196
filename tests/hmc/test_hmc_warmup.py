"""Warm-up: step sizes and tilts are found, then frozen; an interrupted one goes on as if nothing had been."""

import math
import pickle
from dataclasses import dataclass, field, replace

import pytest
import torch
from hmc_targets import Target, linear, quadratic, ridges, streams
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raygen.hmc import HmcSettings, Kernel, WarmUp, advance, begin, draw, warm_up
from raygen.hmc.warmup import Barrier, StepSizeSearch
from raygen.tilting import FixedTilt


@dataclass(frozen=True)
class Climbing:
    """A tilt rule that shows how often it was asked: the tilt of node n is (n + 1) (1 + observations / 10)."""

    nodes: int
    seen: int = 0

    @property
    def tilt(self) -> Tensor:
        return torch.arange(1, self.nodes + 1, dtype=torch.float64) * (1 + self.seen / 10)

    def observe(self, gradient):
        return replace(self, seen=self.seen + 1)


@dataclass(frozen=True)
class Steered:
    """A tilt rule that depends on where the chains are."""

    tilt: Tensor

    def observe(self, gradient):
        found = gradient.flatten(1).norm(dim=1).view(len(self.tilt), -1).mean(1)
        return Steered(0.9 * self.tilt + 0.1 / found)


@dataclass(frozen=True)
class Noting(Kernel):
    """The kernel, which notes the parameters and the noise of each step."""

    used: list = field(default_factory=list)
    heard: list = field(default_factory=list)

    def step(self, state, parameters, score, noise):
        self.used.append(parameters)
        self.heard.append(noise)
        return super().step(state, parameters, score, noise)


def warmed(plan, kernel, target, rule, *, nodes, chains, shape, on_step=None):
    noise = streams(chains, *map(str, range(nodes)))
    state = begin(plan, kernel, kernel.init(target, noise.start(shape)), rule)
    return warm_up(plan, kernel, target, noise, state, on_step)


@dataclass(frozen=True)
class Kept:
    """A tilt that nothing changes."""

    tilt: Tensor

    def observe(self, gradient):
        return self


def still(nodes, tilt=1.0):
    return Kept(torch.full((nodes,), tilt, dtype=torch.float64))


# ---- the search for a step size


@pytest.mark.parametrize("target", [0.4, 0.65, 0.9])
def test_the_search_finds_the_step_of_a_known_acceptance_curve_for_each_group(target):
    # acceptance = exp(-c e^2), so that the step is sqrt(-log(target) / c).
    curve = torch.tensor([0.5, 5.0, 400.0], dtype=torch.float64)
    search = StepSizeSearch.begin(torch.full((3,), 0.5, dtype=torch.float64), target=target, largest=50.0)
    for _ in range(1500):
        search = search.update((-curve * search.step_size.square()).exp())
    expected = (-math.log(target) / curve).sqrt()
    torch.testing.assert_close(search.average, expected, rtol=0.03, atol=0)
    torch.testing.assert_close((-curve * search.average.square()).exp().mean().item(), target, rtol=0.03, atol=0)


def test_groups_do_not_hear_of_each_other():
    rates = torch.rand((40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = StepSizeSearch.begin(torch.ones(3, dtype=torch.float64), target=0.6, largest=9.0)
    alone = StepSizeSearch.begin(torch.ones(1, dtype=torch.float64), target=0.6, largest=9.0)
    for row in rates:
        together, alone = together.update(row), alone.update(row[1:2])
    assert torch.equal(together.average[1:2], alone.average) and torch.equal(together.step_size[1:2], alone.step_size)


@pytest.mark.parametrize("first", [0.01, 0.4, 3.0])
def test_no_step_size_exceeds_the_largest(first):
    search = StepSizeSearch.begin(torch.tensor([first], dtype=torch.float64), target=0.65, largest=0.4)
    generator = torch.Generator().manual_seed(0)
    for count in range(200):
        assert search.step_size.item() <= 0.4 * (1 + 1e-12) and search.average.item() <= 0.4 * (1 + 1e-12)
        always = torch.ones(1, dtype=torch.float64)
        search = search.update(always if count < 150 else torch.rand(1, generator=generator, dtype=torch.float64))
        if count == 140:
            assert search.average.item() == pytest.approx(0.4, rel=0.05)


def test_a_step_size_that_is_never_accepted_shrinks_and_stays_positive():
    search = StepSizeSearch.begin(torch.tensor([0.4], dtype=torch.float64), target=0.65, largest=0.4)
    for _ in range(60):
        search = search.update(torch.zeros(1, dtype=torch.float64))
    assert 0 < search.step_size.item() < 1e-4


@pytest.mark.parametrize("far", [1e-3, 1e3])
def test_a_start_far_off_is_left_within_a_dozen_trajectories(far):
    search = StepSizeSearch.begin(torch.tensor([far], dtype=torch.float64), target=0.65, largest=1e4)
    for _ in range(12):
        search = search.update((-search.step_size.square()).exp())
    assert 0.3 < search.step_size.item() < 1.3  # where exp(-e^2) is 0.91 and 0.18


def test_the_steps_tried_hardly_vary_though_a_few_chains_measure_the_rate_coarsely():
    generator, tried = torch.Generator().manual_seed(0), []
    search = StepSizeSearch.begin(torch.tensor([1.0], dtype=torch.float64), target=0.65, largest=1e4)
    for _ in range(400):
        step = search.step_size
        rate = (torch.rand(4, generator=generator, dtype=torch.float64) < (-step.square()).exp()).double().mean()
        search = search.update(rate[None])
        tried.append(step.log().item())
    assert torch.tensor(tried[20:]).std() < 0.3
    assert search.average.item() == pytest.approx(math.sqrt(-math.log(0.65)), rel=0.15)


@pytest.mark.parametrize("move", [0.1, 10.0])
def test_the_search_follows_a_target_that_moves_late(move):
    search = StepSizeSearch.begin(torch.tensor([0.65], dtype=torch.float64), target=0.65, largest=1e4)
    for count in range(120):
        best = 1.0 if count < 60 else move
        search = search.update((-(search.step_size / best).square()).exp())
    assert search.average.item() == pytest.approx(move * math.sqrt(-math.log(0.65)), rel=0.1)


# ---- step sizes of chains and nodes


def stiff(chains):
    """Each row its own curvature: 1, 1, .. then 100, 100, .."""
    scale = torch.tensor([1.0, 100.0], dtype=torch.float64).repeat_interleave(chains)[:, None]
    return Target(lambda z: -0.5 * (scale * z.square()).sum(1), lambda z: -scale * z)


@pytest.mark.parametrize("integrator", ["rotation", "leapfrog"])
@pytest.mark.parametrize("each_chain", [False, True])
def test_warm_up_brings_every_node_or_chain_to_the_acceptance_asked_for(integrator, each_chain):
    plan, kernel = WarmUp(iterations=400, acceptance=0.7, each_chain=each_chain), Kernel(integrator, 2)
    target, noise = stiff(8), streams(8, "0", "1")
    state, found = warmed(plan, kernel, target, still(2), nodes=2, chains=8, shape=(20,))
    by_node = found.step_size.view(2, 8)
    assert by_node[0].mean() > 4 * by_node[1].mean()
    assert (by_node.std(1) > 0).all() if each_chain else (by_node == by_node[:, :1]).all()
    rates = []

    def note(count, state, info):
        rates.append(info.acceptance)

    draw(kernel, target, state, found, noise, first=400, iterations=150, on_step=note)
    reached = torch.stack(rates).mean(0).view(2, 8)
    # The second node is stiff; the first one may be stopped by the right angle.
    assert reached[1].mean().item() == pytest.approx(0.7, abs=0.06)
    assert (reached[1] - 0.7).abs().max() < 0.2
    assert (found.step_size * kernel.steps <= math.pi / 2 * (1 + 1e-12)).all()


def test_without_a_tilt_the_rotation_turns_by_a_right_angle():
    _, found = warmed(WarmUp(60), Kernel("rotation", 5), linear(torch.ones(3, dtype=torch.float64)), still(1, 1e-9),
                      nodes=1, chains=4, shape=(3,))  # fmt: skip
    assert found.step_size[0].item() == pytest.approx(math.pi / 2 / 5, rel=0.02)


@pytest.mark.parametrize("step_size", [0.01, 2.5])
def test_a_given_step_size_is_kept(step_size):
    kernel = Noting("rotation", 2)
    _, found = warmed(WarmUp(20, step_size=step_size), kernel, ridges(3), still(2), nodes=2, chains=3, shape=(3,))
    for parameters in (*kernel.used, found):
        torch.testing.assert_close(parameters.step_size, torch.full((6,), step_size, dtype=torch.float64))


# ---- phases


def test_the_tilt_rises_then_learns_then_freezes():
    kernel, states = Noting("rotation", 2), []
    _, found = warmed(WarmUp(20, anneal=0.4), kernel, ridges(3), Climbing(2), nodes=2, chains=3, shape=(3,),
                      on_step=lambda state, info: states.append(state))  # fmt: skip
    each = torch.tensor([1.0, 1, 1, 2, 2, 2], dtype=torch.float64)
    for iteration, parameters in enumerate(kernel.used):
        ramp, seen = min(1, (iteration + 1) / 8), min(iteration, 18)
        torch.testing.assert_close(parameters.tilt, each * ramp * (1 + seen / 10))
    assert [state.rule.seen for state in states] == [min(count, 18) for count in range(1, 21)]
    assert [state.iteration for state in states] == list(range(1, 21))
    torch.testing.assert_close(found.tilt, each * 2.8)


def test_every_iteration_has_its_own_noise():
    kernel = Noting("rotation", 2)
    warmed(WarmUp(20), kernel, ridges(3), still(2), nodes=2, chains=3, shape=(3,))
    for iteration, noise in enumerate(kernel.heard):
        assert torch.equal(noise.momentum, streams(3, "0", "1").noise(iteration, (3,)).momentum)


@pytest.mark.parametrize("anneal", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("iterations", [0, 1, 7])
def test_after_warm_up_the_whole_tilt_is_on_whatever_the_annealing(anneal, iterations):
    plan = WarmUp(iterations, anneal=anneal)
    _, found = warmed(plan, Kernel(), ridges(3), still(1, 3.0), nodes=1, chains=2, shape=(3,))
    torch.testing.assert_close(found.tilt, torch.full((2,), 3.0, dtype=torch.float64))


def test_no_iterations_leave_the_chains_where_they_start():
    state, found = warmed(WarmUp(0), Kernel("rotation", 4), ridges(3), still(1), nodes=1, chains=2, shape=(3,))
    assert torch.equal(state.position, streams(2, "0").start((3,)))
    torch.testing.assert_close(found.step_size, torch.full((2,), math.pi / 8, dtype=torch.float64))


def test_parameters_are_frozen_after_warm_up():
    kernel = Noting("rotation", 2)
    state, found = warmed(WarmUp(10), kernel, ridges(3), Climbing(2), nodes=2, chains=3, shape=(3,))
    kernel.used.clear()
    draw(kernel, ridges(3), state, found, streams(3, "0", "1"), first=10, iterations=5, on_step=lambda *_: None)
    assert len(kernel.used) == 5 and all(used is found for used in kernel.used)


@pytest.mark.parametrize("stop", [1, 9, 15, 19])
def test_warm_up_continued_from_a_saved_state_is_the_same_to_the_bit(stop):
    plan, kernel, target = WarmUp(20, each_chain=True), Kernel("rotation", 3), ridges(3)
    saved = []
    chains, found = warmed(plan, kernel, target, Steered(torch.ones(2, dtype=torch.float64)), nodes=2, chains=3,
                           shape=(3,), on_step=lambda state, info: saved.append(pickle.dumps(state)))  # fmt: skip
    state = pickle.loads(saved[stop - 1])
    assert state.iteration == stop
    again, parameters = warm_up(plan, kernel, target, streams(3, "0", "1"), state)
    assert torch.equal(again.position, chains.position) and torch.equal(again.gradient, chains.gradient)
    assert torch.equal(parameters.step_size, found.step_size) and torch.equal(parameters.tilt, found.tilt)


def test_a_finished_warm_up_makes_no_further_step():
    kernel, states = Noting("rotation", 3), []
    warmed(WarmUp(8), kernel, ridges(3), still(1), nodes=1, chains=3, shape=(3,),
           on_step=lambda state, info: states.append(state))  # fmt: skip
    kernel.used.clear()
    warm_up(WarmUp(8), kernel, ridges(3), streams(3, "0"), states[-1])
    assert kernel.used == []


# ---- settings


def test_langevin_is_one_leapfrog_step():
    settings = HmcSettings(kernel="langevin", steps=8)
    assert settings.make_kernel() == Kernel("leapfrog", 1)
    assert settings.kernel_steps == 1


def test_settings_name_the_gradients_that_a_trajectory_costs():
    settings, target = HmcSettings(steps=3, trajectory="steps", warm_up=5), quadratic(torch.eye(3, dtype=torch.float64))
    kernel, noise = settings.make_kernel(), streams(2, "0")
    chains = kernel.init(target, noise.start((3,)))
    target.both = 0
    plan = settings.make_warm_up()
    state, found = warm_up(plan, kernel, target, noise, begin(plan, kernel, chains, still(1)))
    draw(kernel, target, state, found, noise, first=5, iterations=4, on_step=lambda *_: None)
    assert target.both == (5 + 4) * settings.kernel_steps == 27


@pytest.mark.parametrize("tilt", [0.5, 3.0])
def test_the_barrier_of_a_linear_score_is_that_of_the_closed_form(tilt):
    # At tilt b the score a.z is N(b |a|^2, |a|^2): E|f - f'| / 2 = |a| / sqrt(pi), whatever b is.
    slope = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    score, flow, kernel = linear(slope), streams(200, "one", "two"), Kernel(steps=8)
    rule = FixedTilt(torch.tensor([tilt, 2 * tilt], dtype=torch.float64))
    plan = WarmUp(100)
    state = begin(plan, kernel, kernel.init(score, flow.start((3,))), rule)
    while state.iteration < plan.iterations:
        state, _ = advance(plan, kernel, score, flow, state)
    expected = rule.tilt * slope.norm() / math.sqrt(math.pi)
    assert torch.allclose(state.barrier.value, expected, rtol=0.05)
    assert torch.equal(state.barrier.tilt, rule.tilt)


@given(path=st.lists(st.floats(0.01, 10), min_size=1, max_size=20), spread=st.floats(0.1, 5))
def test_the_barrier_of_scores_of_one_spread_is_told_by_the_last_tilt_alone(path, spread):
    scores = torch.tensor([0.0, spread], dtype=torch.float64)
    barrier = Barrier.begin(scores, 1, measured=True)
    for tilt in path:
        barrier = barrier.climb(torch.tensor([tilt], dtype=torch.float64), scores)
    assert barrier.value.item() == pytest.approx(0.5 * spread * path[-1])


@given(steps=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 100)), min_size=1, max_size=20))
def test_no_barrier_is_below_zero_however_the_tilt_and_the_scores_go(steps):
    barrier = Barrier.begin(torch.zeros(2), 1, measured=True)
    for tilt, spread in steps:
        barrier = barrier.climb(torch.tensor([tilt]), torch.tensor([0.0, spread]))
    assert 0 <= barrier.value.item() < math.inf


@pytest.mark.parametrize(("chains", "plan"), [(1, WarmUp(100)), (4, WarmUp(100, anneal=0.0)), (4, WarmUp(10))])
def test_a_single_chain_or_a_tilt_that_hardly_rises_measures_no_barrier(chains, plan):
    kernel, score, flow = Kernel(), linear(torch.ones(2, dtype=torch.float64)), streams(chains)
    state = begin(plan, kernel, kernel.init(score, flow.start((2,))), FixedTilt(torch.ones(1, dtype=torch.float64)))
    state, _ = advance(plan, kernel, score, flow, state)
    assert bool(state.barrier.value.isnan().all())
