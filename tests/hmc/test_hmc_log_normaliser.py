"""log Z by annealed importance sampling, against closed forms; nodes of one batch serve as repetitions."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hmc_targets import Target, linear, quadratic
from safetensors.torch import load, save

from raygen.errors import SettingsError
from raygen.hmc import (
    Annealing,
    HmcSettings,
    Kernel,
    Ladder,
    Pilot,
    Streams,
    Weighing,
    begin_pilot,
    begin_weighing,
    climb,
    estimate,
    find_ladder,
    log_normaliser,
    make_ladder,
    rebuild,
    to_tensors,
    weigh,
    weigh_rung,
)
from raygen.hmc.ladder import kept_fraction

KERNELS = {
    "rotation": HmcSettings(steps=4).make_kernel(),
    "leapfrog": HmcSettings(kernel="leapfrog", steps=4).make_kernel(),
    "langevin": HmcSettings(kernel="langevin").make_kernel(),
}
EACH = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
D = 5
SLOPE = torch.tensor([0.9, -0.4, 0.2, 0.7, -0.5], dtype=torch.float64)
MATRIX = torch.diag(torch.tensor([0.1, 0.7, 2.0, 6.0, 15.0], dtype=torch.float64))
MATRIX[0, 1] = MATRIX[1, 0] = 0.2
TARGETS = {
    "linear": (linear(SLOPE), lambda b: 0.5 * b**2 * SLOPE.square().sum().item()),
    "quadratic": (quadratic(MATRIX), lambda b: -0.5 * torch.logdet(torch.eye(D).double() + b * MATRIX).item()),
}


def streams(nodes, chains, dtype=torch.float64):
    return Streams(tuple(f"node {node}" for node in range(nodes)), chains, dtype=dtype)


def tilts(nodes, tilt=1.0, dtype=torch.float64):
    return torch.full((nodes,), tilt, dtype=dtype)


class Noting(Kernel):
    """Notes the acceptance probabilities of its steps."""

    def step(self, *arguments):
        chains, info = super().step(*arguments)
        self.__dict__.setdefault("acceptance", []).append(info.acceptance)
        return chains, info


@EACH
@pytest.mark.parametrize("name", TARGETS)
def test_log_z_is_the_closed_form_within_its_own_standard_error(kernel, name):
    target, exact = TARGETS[name]
    nodes, tilt = 120, 1.6
    found = log_normaliser(Annealing(), kernel, target, streams(nodes, 64), tilts(nodes, tilt), (D,))
    z = (found.log_z - exact(tilt)) / found.standard_error
    # Standard errors are calibrated: the deviation of z is 1, give or take 4 of its own errors and some heavy tail.
    assert 0.72 < z.std().item() < 1.4
    assert abs(z.median().item()) < 0.5 and (z.abs() > 3).double().mean() < 0.06
    # The weights are unbiased, all nodes together.
    ratio = (found.log_weights - exact(tilt)).exp().flatten()
    assert abs(ratio.mean().item() - 1) < 4.5 * ratio.std().item() / math.sqrt(len(ratio))
    assert (found.ess >= 1).all() and 15 < found.ess.mean() < 64


@EACH
def test_z_is_unbiased_however_few_the_rungs_and_bad_the_kernel(kernel):
    # Two far rungs and a step too long for the target: the mean weight is right all the same.
    target, exact = TARGETS["quadratic"]
    ladder = Ladder(torch.tensor([[0.0, 0.2, 1.0]]).double(), torch.tensor([[1.0, 0.9, 0.9]]).double())
    noting = Noting(kernel.integrator, kernel.steps, kernel.jitter)
    found = weigh(noting, target, streams(1, 60_000), ladder, (D,))
    ratio = (found.log_weights[0] - exact(1.0)).exp()
    assert torch.stack(noting.acceptance).mean() < 0.9
    assert abs(ratio.mean().item() - 1) < 4 * ratio.std().item() / math.sqrt(len(ratio))
    assert found.log_z.item() == pytest.approx(exact(1.0), abs=4 * found.standard_error.item())


def test_z_is_unbiased_with_ladders_of_few_chains():
    target, exact = TARGETS["linear"]
    found = log_normaliser(Annealing(kept=0.8), KERNELS["rotation"], target, streams(1000, 3), tilts(1000), (D,))
    node_means = (found.log_weights - exact(1.0)).exp().mean(1)
    assert abs(node_means.mean().item() - 1) < 4 * node_means.std().item() / math.sqrt(1000)


def test_forces_that_are_wrong_cost_weights_and_no_bias():
    _, exact = TARGETS["quadratic"]
    target = quadratic(MATRIX, force=lambda z: -0.7 * (z @ MATRIX) + 0.1)
    found = log_normaliser(Annealing(), KERNELS["rotation"], target, streams(100, 32), tilts(100), (D,))
    ratio = (found.log_weights - exact(1.0)).exp().flatten()
    assert abs(ratio.mean().item() - 1) < 4.5 * ratio.std().item() / math.sqrt(len(ratio))


def test_single_precision_is_enough():
    slope = SLOPE.float()
    found = log_normaliser(
        Annealing(), KERNELS["rotation"], linear(slope), streams(4, 256, torch.float32), tilts(4, 2.0), (D,)
    )
    exact = 2.0 * slope.square().sum().item()
    assert found.log_z.dtype == found.log_weights.dtype == torch.float64
    assert ((found.log_z - exact).abs() < 4 * found.standard_error).all()


def test_one_rung_without_moves_is_plain_importance_sampling():
    target, _ = TARGETS["linear"]
    noise = streams(2, 50)
    ladder = Ladder(torch.tensor([[0.0, 0.5], [0.0, 1.0]]).double(), torch.ones((2, 2)).double())
    found = weigh(KERNELS["rotation"], target, noise, ladder, (D,))
    z = replace(noise, keys=tuple(f"{key}/log Z" for key in noise.keys)).start((D,))
    weights = (torch.tensor([0.5, 1.0]).double()[:, None] * target.value(z).view(2, 50)).exp()
    torch.testing.assert_close(found.log_z, weights.mean(1).log())
    torch.testing.assert_close(found.ess, weights.sum(1).square() / weights.square().sum(1))
    torch.testing.assert_close(found.standard_error, weights.std(1) / math.sqrt(50) / weights.mean(1))
    assert found.gradients == 1


def test_more_rungs_give_smaller_errors():
    target, _ = TARGETS["quadratic"]

    def error(**plan):
        return log_normaliser(
            Annealing(**plan), KERNELS["rotation"], target, streams(20, 64), tilts(20), (D,)
        ).standard_error.mean()

    assert error(rungs=40) < 0.6 * error(rungs=8)


# ---- the ladder


def test_a_ladder_rises_from_zero_to_the_tilt_of_each_node_and_loses_evenly():
    target, _ = TARGETS["quadratic"]
    end = torch.tensor([1.0, 30.0]).double()
    ladder = find_ladder(Annealing(kept=0.9), KERNELS["rotation"], target, streams(2, 256), end, (D,))
    assert (ladder.tilt[:, 0] == 0).all() and torch.equal(ladder.tilt[:, -1], end)
    assert (ladder.tilt.diff(dim=1) >= 0).all() and (ladder.step_size > 0).all()
    row = ladder.tilt[1]
    kept = []
    for low, high in itertools.pairwise(row):
        # Exact draws of the rung: N(0, (I + b M)^-1).
        root = torch.linalg.cholesky(torch.linalg.inv(torch.eye(D).double() + low * MATRIX))
        noise = torch.randn((4000, D), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        kept.append(kept_fraction(target.value(noise @ root.T)[None], (high - low)[None]).item())
    assert min(kept) > 0.75 and max(kept) < 0.99
    # A ladder of even tilts loses nearly everything on its first rung.
    noise = torch.randn((4000, D), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert kept_fraction(target.value(noise)[None], row[-1:] / len(kept)).item() < 0.5 * min(kept)


def test_a_normal_score_keeps_what_was_asked_for():
    scores = torch.randn((1, 200_000), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert kept_fraction(3 * scores, torch.tensor([0.1]).double()).item() == pytest.approx(math.exp(-0.09), rel=0.01)


def test_the_ladder_of_a_node_and_its_estimate_do_not_depend_on_its_neighbours():
    target, _ = TARGETS["quadratic"]
    together, end = streams(3, 8), torch.tensor([0.3, 4.0, 20.0]).double()
    plan = Annealing(kept=0.9)
    all_ = log_normaliser(plan, KERNELS["rotation"], target, together, end, (D,))
    alone = log_normaliser(plan, KERNELS["rotation"], target, replace(together, keys=together.keys[:1]), end[:1], (D,))
    rungs = alone.ladder.tilt.shape[1]
    assert rungs < all_.ladder.tilt.shape[1]
    torch.testing.assert_close(all_.ladder.tilt[:1, :rungs], alone.ladder.tilt)
    assert (all_.ladder.tilt[0, rungs:] == end[0]).all()
    torch.testing.assert_close(all_.log_weights[:1], alone.log_weights)


def test_the_same_streams_give_the_same_estimate_and_others_another():
    target, _ = TARGETS["linear"]
    one, two, other = (
        log_normaliser(Annealing(), KERNELS["rotation"], target, noise, tilts(1), (D,)).log_z.item()
        for noise in (streams(1, 8), streams(1, 8), Streams(("other",), 8, dtype=torch.float64))
    )
    assert one == two != other


def test_the_chains_that_are_weighted_are_others_than_the_pilots():
    seen = []

    def value(z):
        seen.append(z)
        return z @ SLOPE

    target = Target(value, lambda z: SLOPE.expand_as(z).clone())
    find_ladder(Annealing(), KERNELS["rotation"], target, streams(1, 4), tilts(1), (D,))
    pilot = torch.cat(seen)
    seen.clear()
    weigh(KERNELS["rotation"], target, streams(1, 4), Ladder(*torch.ones((2, 1, 2)).double()), (D,))
    assert not torch.isin(torch.cat(seen), pilot).any()


def test_given_rungs_are_kept():
    target, _ = TARGETS["linear"]
    ladder = find_ladder(Annealing(rungs=7), KERNELS["leapfrog"], target, streams(2, 8), tilts(2), (D,))
    assert ladder.tilt.shape == ladder.step_size.shape == (2, 8) and ladder.rungs == 7


def test_the_step_size_follows_the_tilt():
    ladder = find_ladder(
        Annealing(), KERNELS["langevin"], TARGETS["quadratic"][0], streams(1, 64), tilts(1, 50.0), (D,)
    )
    assert ladder.step_size[0, -1] < 0.3 * ladder.step_size[0, 0]


def test_chains_without_a_score_do_not_shrink_the_step_size():
    target = Target(
        lambda z: torch.where(torch.arange(len(z)) < 4, math.nan, z @ SLOPE),
        lambda z: SLOPE.expand_as(z).clone(),
    )
    ladder = find_ladder(Annealing(), KERNELS["rotation"], target, streams(1, 8), tilts(1, 0.2), (D,))
    assert ladder.step_size.min() > 0.9 * math.pi / 8


def test_the_mass_of_the_particles_changes_nothing_but_the_unit_of_the_step():
    light, heavy = (
        find_ladder(Annealing(), Kernel(mass=mass), TARGETS["linear"][0], streams(1, 8), tilts(1), (D,))
        for mass in (1e-4, 1.0)
    )
    torch.testing.assert_close(100 * light.step_size, heavy.step_size)
    torch.testing.assert_close(light.tilt, heavy.tilt)


def test_gradients_are_counted():
    target = linear(SLOPE)
    plan = Annealing(rungs=5)
    found = log_normaliser(plan, KERNELS["rotation"], target, streams(1, 4), tilts(1), (D,))
    # One for the pilot's start.
    assert target.both == found.gradients + found.ladder.gradients + 1
    assert found.gradients == 1 + 4 * 4


# ---- scores that are not finite


def holed(holes, inside):
    """The linear score, which is ``inside`` on ``holes``."""
    return Target(
        lambda z: torch.where(holes(z), inside, z @ SLOPE),
        lambda z: torch.where(holes(z)[:, None], math.nan, SLOPE.expand_as(z)),
    )


@pytest.mark.parametrize("value", [-math.inf, math.nan, math.inf])
def test_a_node_without_a_finite_score_has_no_weight_and_no_neighbour_notices(value):
    dead = Target(
        lambda z: torch.where(torch.arange(len(z)) < 8, value, z @ SLOPE),
        lambda z: torch.where(torch.arange(len(z))[:, None] < 8, math.nan, SLOPE.expand_as(z)),
    )
    plan = Annealing(rungs=10)
    found = log_normaliser(plan, KERNELS["rotation"], dead, streams(2, 8), tilts(2), (D,))
    whole = log_normaliser(plan, KERNELS["rotation"], TARGETS["linear"][0], streams(2, 8), tilts(2), (D,))
    assert found.log_z[0] == -math.inf and found.ess[0] == 0 and found.standard_error[0].isnan()
    assert (found.log_weights == -math.inf).sum(1).tolist() == [8, 0]
    assert torch.equal(found.log_weights[1], whole.log_weights[1])
    assert torch.equal(found.ladder.tilt[1], whole.ladder.tilt[1])


@pytest.mark.parametrize("value", [-math.inf, math.nan, math.inf])
def test_a_chain_that_starts_without_a_finite_score_weighs_nothing(value):
    # E_q[exp(b f); z_0 <= 1] = exp(b^2 |a|^2 / 2) Phi(1 - b a_0).
    target = holed(lambda z: z[:, 0] > 1.0, value)
    found = log_normaliser(Annealing(), KERNELS["rotation"], target, streams(100, 64), tilts(100), (D,))
    inside = 0.5 * math.erfc(-(1 - SLOPE[0].item()) / math.sqrt(2))
    exact = TARGETS["linear"][1](1.0) + math.log(inside)
    ratio = (found.log_weights - exact).exp().flatten()
    assert abs(ratio.mean().item() - 1) < 4 * ratio.std().item() / math.sqrt(len(ratio))
    assert (found.log_weights == -math.inf).sum() > 500
    z = (found.log_z - exact) / found.standard_error
    assert 0.7 < z.std().item() < 1.4


def test_a_constant_score_has_an_exact_log_z():
    target = Target(lambda z: torch.full_like(z[:, 0], 3.5), torch.zeros_like)
    found = log_normaliser(Annealing(), KERNELS["rotation"], target, streams(2, 4), tilts(2, 2.0), (D,))
    torch.testing.assert_close(found.log_z, torch.full((2,), 7.0).double())
    assert found.standard_error.max() < 1e-6 and found.ladder.tilt.shape == (2, 2)
    torch.testing.assert_close(found.ess, torch.full((2,), 4.0).double())


def test_one_chain_has_an_estimate_and_no_standard_error():
    found = log_normaliser(Annealing(rungs=5), KERNELS["rotation"], TARGETS["linear"][0], streams(1, 1), tilts(1), (D,))
    assert found.log_z.isfinite().all() and found.standard_error.isnan().all() and found.ess.item() == pytest.approx(1)


# ---- what is refused


@pytest.mark.parametrize("tilt", [0.0, -1.0, math.inf, math.nan])
def test_a_tilt_that_is_no_positive_number_is_refused_by_its_value(tilt):
    with pytest.raises(SettingsError, match=rf"tilt = {tilt:g} of node 1") as caught:
        log_normaliser(Annealing(), KERNELS["rotation"], TARGETS["linear"][0], streams(2, 2),
                       torch.tensor([1.0, tilt]), (D,))  # fmt: skip
    assert "\n" not in str(caught.value)


def test_an_unadjusted_kernel_is_refused():
    kernel = Kernel("leapfrog", 1, adjusted=False)
    with pytest.raises(SettingsError, match="unadjusted"):
        log_normaliser(Annealing(), kernel, TARGETS["linear"][0], streams(1, 2), tilts(1), (D,))
    with pytest.raises(SettingsError, match="unadjusted"):
        weigh(kernel, TARGETS["linear"][0], streams(1, 2), Ladder(*torch.ones((2, 1, 2))), (D,))


def test_a_tilt_out_of_reach_is_refused_with_how_far_it_got(monkeypatch):
    monkeypatch.setattr("raygen.hmc.ladder._MOST_RUNGS", 3)
    with pytest.raises(SettingsError, match=r"3 rungs brought node 0 from tilt 0 to .* of 1000"):
        find_ladder(Annealing(), KERNELS["rotation"], TARGETS["linear"][0], streams(1, 4), tilts(1, 1e3), (D,))


@pytest.mark.parametrize(("field", "value"), [("kept", 0.0), ("kept", 1.0), ("rungs", 0)])
def test_plans_that_cannot_be_are_refused_by_name_and_value(field, value):
    with pytest.raises(SettingsError, match=f"{field} = {value}"):
        Annealing(**{field: value})


# ---- left and taken up


@pytest.mark.parametrize("kernel", ["rotation", "leapfrog"])
def test_a_ladder_and_its_weights_left_on_any_rung_go_on_to_the_same(kernel):
    target, noise, end = TARGETS["quadratic"][0], streams(2, 16), torch.tensor([1.0, 9.0]).double()
    made, cpu = KERNELS[kernel], torch.device("cpu")
    pilots = [begin_pilot(made, target, noise, end, (D,))]
    while not pilots[-1].arrived(end):
        pilots.append(climb(made, target, noise, end, pilots[-1]))
    ladder = make_ladder(Annealing(), made, pilots[-1])
    climbs = [begin_weighing(made, target, noise, (D,))]
    while climbs[-1].rung < ladder.rungs:
        climbs.append(weigh_rung(made, target, noise, ladder, climbs[-1]))
    found = estimate(made, ladder, climbs[-1])
    assert len(pilots) >= 3 and len(climbs) == ladder.tilt.shape[1]
    for pilot in pilots:
        again = rebuild(Pilot, load(save(to_tensors(pilot))), cpu)
        while not again.arrived(end):
            again = climb(made, target, noise, end, again)
        other = make_ladder(Annealing(), made, again)
        assert torch.equal(other.tilt, ladder.tilt) and torch.equal(other.step_size, ladder.step_size)
        assert other.gradients == ladder.gradients
    for state in climbs[:: max(1, len(climbs) // 6)] + climbs[-1:]:
        again = rebuild(Weighing, load(save(to_tensors(state))), cpu)
        while again.rung < ladder.rungs:
            again = weigh_rung(made, target, noise, ladder, again)
        later = estimate(made, ladder, again)
        for name in ("log_z", "standard_error", "log_weights"):
            assert torch.equal(getattr(later, name), getattr(found, name)), name
        assert later.gradients == found.gradients
    whole = log_normaliser(Annealing(), made, target, noise, end, (D,))
    assert torch.equal(whole.log_weights, found.log_weights)
