"""The maps of position and momentum: reversible, volume preserving, of second order, with the work they claim."""

import math
from itertools import pairwise

import pytest
import torch
from hmc_targets import linear, parameters, ridges

from raygen.hmc import ChainState, Kernel, Parameters
from raygen.hmc.integrators import INTEGRATORS

BOTH = pytest.mark.parametrize("name", ["rotation", "leapfrog"])


def swirl(z):
    """A force that is no gradient of anything."""
    return torch.stack([-z[:, 1], z[:, 0].sin(), z[:, 2] * z[:, 0]], dim=1)


def start(target, count=6, dimension=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    position, momentum = torch.randn((2, count, dimension), generator=generator, dtype=torch.float64).to(dtype)
    value, gradient = target.value_and_gradient(position)
    return ChainState(position, value, gradient), momentum


def energy(state, momentum, tilt):
    return 0.5 * (state.position.square().sum(1) + momentum.square().sum(1)) - tilt * state.score


@BOTH
@pytest.mark.parametrize("force", [None, swirl])
def test_the_way_back_with_the_momentum_flipped_ends_at_the_start(name, force):
    target = ridges(3, force)
    state, momentum = start(target)
    known = Parameters(torch.linspace(0.05, 0.3, 6, dtype=torch.float64), torch.full((6,), 1.7, dtype=torch.float64))
    there = INTEGRATORS[name](target, state, momentum, known, 13)
    back = INTEGRATORS[name](target, there.end, -there.momentum, known, 13)
    assert (there.end.position - state.position).abs().min() > 1e-3
    torch.testing.assert_close(back.end.position, state.position, rtol=0, atol=1e-12)
    torch.testing.assert_close(back.momentum, -momentum, rtol=0, atol=1e-12)
    torch.testing.assert_close(back.work, -there.work, rtol=0, atol=1e-11)


@BOTH
@pytest.mark.parametrize("force", [None, swirl])
def test_the_map_keeps_the_volume_of_phase_space(name, force):
    target = ridges(3, force)

    def flow(phase):
        position, momentum = phase[None, :3], phase[None, 3:]
        value, gradient = target.value_and_gradient(position)
        made = INTEGRATORS[name](target, ChainState(position, value, gradient), momentum, parameters(1, 0.3, 1.7), 5)
        return torch.cat([made.end.position[0], made.momentum[0]])

    phase = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(flow, phase)
    assert (jacobian - torch.eye(6)).abs().max() > 0.1
    assert torch.linalg.det(jacobian).item() == pytest.approx(1, abs=1e-12)


@BOTH
def test_the_energy_error_falls_with_the_square_of_the_step(name):
    target = ridges(3)
    state, momentum = start(target, count=64)
    counts, errors = [16, 32, 64, 128], []
    for steps in counts:
        made = INTEGRATORS[name](target, state, momentum, parameters(64, 1.2 / steps, 1.0), steps)
        errors.append((energy(made.end, made.momentum, 1.0) - energy(state, momentum, 1.0)).abs().mean().log().item())
    slopes = [(a - b) / math.log(2) for a, b in pairwise(errors)]
    assert slopes == pytest.approx([2, 2, 2], abs=0.05)


@pytest.mark.parametrize("step_size", [1e-3, 0.7, math.pi / 2, 3.0])
def test_the_rotation_is_the_exact_flow_of_the_reference_at_any_step(step_size):
    target = ridges(3)
    state, momentum = start(target)
    made = INTEGRATORS["rotation"](target, state, momentum, parameters(6, step_size, 0.0), 7)
    cosine, sine = math.cos(7 * step_size), math.sin(7 * step_size)
    torch.testing.assert_close(made.end.position, state.position * cosine + momentum * sine, rtol=0, atol=1e-13)
    torch.testing.assert_close(made.momentum, momentum * cosine - state.position * sine, rtol=0, atol=1e-13)
    assert torch.equal(made.work, torch.zeros(6, dtype=torch.float64))


def test_without_a_tilt_the_rotation_has_no_energy_error_even_in_float32_and_many_dimensions():
    wide = linear(torch.ones(50_000))
    state, momentum = start(wide, count=2, dimension=50_000, dtype=torch.float32)
    made = INTEGRATORS["rotation"](wide, state, momentum, parameters(2, 0.3, 0.0, torch.float32), 50)
    assert torch.equal(made.work, torch.zeros(2))


@BOTH
@pytest.mark.parametrize("force", [None, swirl])
def test_the_work_is_the_change_of_the_norms(name, force):
    target = ridges(3, force)
    state, momentum = start(target)
    made = INTEGRATORS[name](target, state, momentum, parameters(6, 0.4, 2.0), 9)
    change = energy(made.end, made.momentum, 0.0) - energy(state, momentum, 0.0)
    assert change.abs().min() > 1e-3
    torch.testing.assert_close(made.work, change, rtol=0, atol=1e-12)


@BOTH
def test_the_end_holds_the_score_and_the_force_at_the_end(name):
    target = ridges(3, swirl)
    state, momentum = start(target)
    end = INTEGRATORS[name](target, state, momentum, parameters(6, 0.2, 1.0), 4).end
    assert torch.equal(end.score, target.value(end.position))
    assert torch.equal(end.gradient, swirl(end.position))


@BOTH
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_a_trajectory_costs_one_gradient_a_step(name, steps):
    target = ridges(3)
    state, momentum = start(target)
    target.both = 0
    INTEGRATORS[name](target, state, momentum, parameters(6, 0.1, 1.0), steps)
    assert (target.both, target.gradients, target.values) == (steps, 0, 0)


@BOTH
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_cheap_forces_cost_one_value_more_a_trajectory(name, steps):
    target = ridges(3, swirl)
    state, momentum = start(target)
    target.both = 0
    INTEGRATORS[name](target, state, momentum, parameters(6, 0.1, 1.0), steps)
    assert (target.both, target.gradients, target.values) == (0, steps, 1)


def test_the_start_costs_one_evaluation():
    target = ridges(3)
    Kernel().init(target, torch.zeros((4, 3), dtype=torch.float64))
    assert (target.both, target.gradients, target.values) == (1, 0, 0)
