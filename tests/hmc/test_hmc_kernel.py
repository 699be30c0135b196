"""The kernel: stationary for its target, whatever the forces; a chain that fails fails alone."""

import math

import pytest
import torch
from hmc_targets import Target, assert_normal_moments, linear, parameters, quadratic, ridges, streams

from raygen.errors import ScoreError
from raygen.hmc import ChainState, HmcSettings, Kernel, StepInfo

KERNELS = {
    "rotation": (Kernel("rotation", 4), 0.55),
    "leapfrog": (Kernel("leapfrog", 4), 0.45),
    "langevin": (HmcSettings(kernel="langevin").make_kernel(), 1.0),
}
CHAINS = 4000
SLOPE = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
MIX = torch.tensor([[1.0, 0.4, 0.0], [0.4, 2.0, -0.3], [0.0, -0.3, 0.5]], dtype=torch.float64)
TILT = 1.5


def run(kernel, target, position, step_size, iterations, tilt=TILT):
    state, rate = kernel.init(target, position), 0.0
    noise = streams(len(position))
    known = parameters(len(position), step_size, tilt)
    for iteration in range(iterations):
        state, info = kernel.step(state, known, target, noise.noise(iteration, position.shape[1:]))
        rate += info.acceptance.mean().item() / iterations
    return state.position, rate


def linear_case(force=None):
    mean = TILT * SLOPE
    return linear(SLOPE, force), mean, torch.eye(3, dtype=torch.float64)


def quadratic_case(force=None):
    covariance = torch.linalg.inv(torch.eye(3, dtype=torch.float64) + TILT * MIX)
    return quadratic(MIX, force), torch.zeros(3, dtype=torch.float64), covariance


def exact_draws(mean, covariance):
    return mean + streams(CHAINS, "exact").start((3,)) @ torch.linalg.cholesky(covariance).T


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("case", [linear_case, quadratic_case])
def test_exact_draws_stay_exact_draws(name, case):
    (kernel, step_size), (target, mean, covariance) = KERNELS[name], case()
    position, rate = run(kernel, target, exact_draws(mean, covariance), step_size, 15)
    assert 0.3 < rate < 0.97  # else nothing hangs on the acceptance
    assert_normal_moments(position, mean, covariance)


def weak(z):
    return -0.8 * (z @ MIX)


def coarse(z):
    return -(z.bfloat16() @ MIX.bfloat16()).double()


def astray(z):
    return -(z @ MIX) + 0.3 * z.roll(1, dims=1)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("force", [weak, coarse, astray])
def test_wrong_forces_leave_the_target_as_it_is(name, force):
    (kernel, step_size), (target, mean, covariance) = KERNELS[name], quadratic_case(force)
    position, rate = run(kernel, target, exact_draws(mean, covariance), 0.8 * step_size, 15)
    assert 0.3 < rate < 0.99
    assert_normal_moments(position, mean, covariance)


def test_wrong_forces_lead_away_where_nothing_is_rejected():
    (kernel, step_size), (target, mean, covariance) = KERNELS["rotation"], quadratic_case(weak)
    loose = Kernel(kernel.integrator, kernel.steps, adjusted=False)
    position, _ = run(loose, target, exact_draws(mean, covariance), 0.8 * step_size, 15)
    with pytest.raises(AssertionError):
        assert_normal_moments(position, mean, covariance)


def test_chains_from_far_away_find_a_target_that_is_no_gaussian():
    # One ridge: p(z) ~ cosh(z)^a exp(-z^2/2), whose moments follow by numerical integration.
    height = 2.0
    target = Target(lambda z: height * z[:, 0].cosh().log(), lambda z: height * z.tanh())
    position, _ = run(Kernel("rotation", 4), target, torch.full((CHAINS, 1), 4.0, dtype=torch.float64), 0.5, 60, 1.0)
    grid = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    density = grid.cosh().pow(height) * (-0.5 * grid.square()).exp()
    second, fourth = (((density * grid**power).sum() / density.sum()).item() for power in (2, 4))
    spread = math.sqrt((fourth - second**2) / CHAINS)
    assert position.square().mean().item() == pytest.approx(second, abs=5 * spread)
    assert position.mean().item() == pytest.approx(0, abs=5 * math.sqrt(second / CHAINS))


@pytest.mark.parametrize("step_size", [0.3, 1.2])
def test_unadjusted_langevin_has_the_variance_that_its_step_gives_it(step_size):
    # z' = (1 - e^2/2) z + e p has the stationary variance 1 / (1 - e^2/4) instead of the reference's 1.
    kernel = HmcSettings(kernel="langevin", adjusted=False, jitter=0).make_kernel()
    variance = 1 / (1 - step_size**2 / 4)
    exact = math.sqrt(variance) * streams(CHAINS, "exact").start((3,))
    position, _ = run(kernel, linear(SLOPE), exact, step_size, 20, tilt=0.0)
    assert_normal_moments(position, torch.zeros(3), variance * torch.eye(3, dtype=torch.float64))
    if step_size > 1:
        with pytest.raises(AssertionError):
            assert_normal_moments(position, torch.zeros(3), torch.eye(3, dtype=torch.float64))


def test_unadjusted_langevin_is_biased_but_finite():
    kernel = HmcSettings(kernel="langevin", adjusted=False).make_kernel()
    target, mean, covariance = quadratic_case()
    position, _ = run(kernel, target, exact_draws(mean, covariance), 0.7, 30)
    assert position.isfinite().all()
    assert (position.var(0) / covariance.diagonal()).max() > 1.2


def test_an_unbounded_flight_is_refused_even_without_an_adjustment():
    kernel = HmcSettings(kernel="leapfrog", steps=300, adjusted=False, jitter=0).make_kernel()
    target = quadratic(MIX)
    position = streams(4).start((3,))
    state = kernel.init(target, position)
    known = parameters(4, 5.0, TILT)
    end, info = kernel.step(state, known, target, streams(4).noise(0, (3,)))
    assert info.diverged.all() and not info.accepted.any()
    assert torch.equal(end.position, position)


class Broken(Target):
    """A smooth score of which one row fails whenever it is away from its start."""

    def __init__(self, row, start, *, value=None, gradient=None, cheap=False):
        sound = ridges(start.shape[1])
        self._row, self._start, self._bad = row, start.clone(), (value, gradient)

        def spoil(result, z, bad):
            result = result.clone()
            if bad is not None and not torch.equal(z[row], self._start[row]):
                result[row] = bad
            return result

        super().__init__(
            lambda z: spoil(sound.value(z), z, value),
            lambda z: spoil(sound.gradient(z), z, gradient),
            (lambda z: spoil(sound.gradient(z), z, gradient)) if cheap else None,
        )


FAULTS = [
    *(({"value": value}, adjusted) for value in (math.nan, math.inf, -math.inf) for adjusted in (True, False)),
    *(({"gradient": value}, adjusted) for value in (math.nan, math.inf) for adjusted in (True, False)),
    ({"gradient": math.nan, "cheap": True}, True),
    ({"value": -1e30}, True),  # finite, and too large an error all the same
]


@pytest.mark.parametrize(("fault", "adjusted"), FAULTS, ids=str)
@pytest.mark.parametrize("integrator", ["rotation", "leapfrog"])
def test_a_chain_that_fails_stays_and_its_neighbours_do_not_notice(fault, integrator, adjusted):
    kernel = Kernel(integrator, 3, adjusted=adjusted)
    noise, bad = streams(6), 2
    position = noise.start((4,))
    others = torch.arange(6) != bad
    known = parameters(6, 0.2, 1.0)
    broken, sound = Broken(bad, position, **fault), ridges(4, ridges(4).gradient if "cheap" in fault else None)
    ill, well = kernel.init(broken, position), kernel.init(sound, position)
    for iteration in range(8):
        ill, seen = kernel.step(ill, known, broken, noise.noise(iteration, (4,)))
        well, expected = kernel.step(well, known, sound, noise.noise(iteration, (4,)))
        assert seen.diverged.tolist() == [row == bad for row in range(6)]
        assert not seen.accepted[bad] and seen.acceptance[bad] == 0 and seen.energy_error[bad] > 1000
        for field in StepInfo.__dataclass_fields__.keys() - {"proposal", "momentum"}:
            assert torch.equal(getattr(seen, field)[others], getattr(expected, field)[others])
    for field in ChainState.__dataclass_fields__:
        assert torch.equal(getattr(ill, field)[others], getattr(well, field)[others])
        assert getattr(ill, field)[bad].isfinite().all()
    assert torch.equal(ill.position[bad], position[bad])
    assert not torch.equal(well.position[others], position[others])


def test_a_chain_that_failed_goes_on_where_the_score_is_sound_again():
    start = torch.zeros((2, 3), dtype=torch.float64)
    target = Broken(0, start, value=math.nan)
    kernel, known, noise = Kernel("rotation", 2), parameters(2, 0.3, 1.0), streams(2)
    state, _ = kernel.step(kernel.init(target, start), known, target, noise.noise(0, (3,)))
    state, info = kernel.step(state, known, ridges(3), noise.noise(1, (3,)))
    assert info.accepted[0] and not torch.equal(state.position[0], start[0])


@pytest.mark.parametrize("fault", [{"value": math.nan}, {"value": math.inf}, {"gradient": math.nan}], ids=str)
def test_a_start_without_a_finite_score_is_refused_in_one_line(fault):
    target = Broken(3, torch.zeros((5, 2), dtype=torch.float64), **fault)
    with pytest.raises(ScoreError) as caught:
        Kernel().init(target, torch.ones((5, 2), dtype=torch.float64))
    message = str(caught.value)
    assert "\n" not in message
    assert "chain 3" in message and "finite" in message


def test_acceptance_probability_and_energy_error_belong_together():
    kernel, target = Kernel("leapfrog", 3), ridges(3)
    noise = streams(500)
    state = kernel.init(target, noise.start((3,)))
    _, info = kernel.step(state, parameters(500, 0.8, 1.0), target, noise.noise(0, (3,)))
    torch.testing.assert_close(info.acceptance, (-info.energy_error).exp().clamp(max=1))
    assert (info.energy_error < 0).any() and (info.energy_error > 0).any()
    assert torch.equal(info.accepted, noise.noise(0, (3,)).acceptance < info.acceptance)


def test_jitter_spreads_the_step_size_and_nothing_else():
    flat = linear(torch.zeros(2, dtype=torch.float64))
    noise = streams(2000)
    start = noise.start((2,))
    drawn = noise.noise(0, (2,))
    kernel = Kernel("rotation", 1, jitter=0.25)
    state, _ = kernel.step(kernel.init(flat, start), parameters(2000, 0.4, 0.0), flat, drawn)
    # Without a tilt the end is z cos e + p sin e, from which e follows.
    angle = torch.atan2(
        (start[:, 0] * state.position[:, 1] - start[:, 1] * state.position[:, 0]),
        (state.position[:, 0] * drawn.momentum[:, 1] - state.position[:, 1] * drawn.momentum[:, 0]),
    )
    angle = torch.where(angle < 0, angle + math.pi, angle)
    expected = 0.4 * (1 + 0.25 * (2 * drawn.jitter - 1))
    torch.testing.assert_close(angle, expected, rtol=0, atol=1e-8)
    assert expected.min() < 0.31 and expected.max() > 0.49
