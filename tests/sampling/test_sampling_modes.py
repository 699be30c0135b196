"""Modes: peaks of the tilted density, the same whoever shares the batch and wherever the climb was stopped."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from raygen.errors import ScoreError, SettingsError, StoreError
from raygen.hmc import Streams, to_tensors
from raygen.networks import NetworkSettings, Views, load_network, wrap_network
from raygen.notation import Node
from raygen.sampling import MODE_STEPS, BatchState, SamplerState, SamplingSettings, UnitSampler
from raygen.sampling.modes import ModeSeeker
from raygen.sampling.rows import to_bytes
from raygen.sampling.settings import FEATURE_MODES, MODES
from raygen.store import Unit
from raygen.tilting import WhitenedScore, WhiteNoise

LENET = load_network(NetworkSettings(weights="random"))
CPU = torch.device("cpu")


def asked(**others):
    return SamplingSettings.parse({"mode_steps": 40, "chains": 3, "sigma": 1.0, **others}, where="test")


def unit(layer, *channels, chains=3):
    return Unit(f"{layer}-00000", layer, tuple(f"{layer}:{channel}" for channel in channels), chains)


def sampler(settings, network=LENET):
    return UnitSampler(network, settings, None, CPU)


def pixels(row):
    return np.array(Image.open(io.BytesIO(row["image"]["bytes"]))).astype(int)


class Parabola(nn.Module):
    """Scores -k (x - a)^2 / 2 of images of one pixel: view and image are one."""

    def __init__(self, k, a):
        super().__init__()
        self.k, self.a = k, a

    def forward(self, x):
        return -0.5 * self.k * (x - self.a).square().flatten(1)


def seeker(module, **others):
    settings = asked(**others)
    density = WhitenedScore(lambda x: module(x).flatten(1).sum(1), WhiteNoise((1, 1, 1), settings.sigma))
    return ModeSeeker([Node("case", 0)], density, Streams(("0/case",), settings.chains), settings, settings.mode_steps)


def climbed(seeker):
    climb = seeker.begin()
    while climb.made < seeker.steps:
        climb = seeker.step(climb)
    return climb


@pytest.mark.parametrize(("tilt", "sigma", "target"), [(1.0, 1.0, 3.0), (4.0, 0.5, -2.0), (0.1, 2.0, 1.0)])
def test_the_mode_of_a_parabola_is_where_its_gradient_and_the_references_balance(tilt, sigma, target):
    found = climbed(seeker(Parabola(2.0, target), tilt=tilt, sigma=sigma, mode_steps=1000))
    # b f(sigma z) - z^2/2 has its peak at z = b k sigma a / (1 + b k sigma^2).
    peak = tilt * 2.0 * sigma * target / (1 + tilt * 2.0 * sigma**2)
    torch.testing.assert_close(found.position.flatten(), torch.full((3,), peak), rtol=1e-4, atol=1e-5)


def test_the_usual_number_of_steps_comes_as_near_to_it_as_can_be_seen():
    found = climbed(seeker(Parabola(2.0, 3.0), tilt=1.0, mode_steps=MODE_STEPS))
    torch.testing.assert_close(found.position.flatten(), torch.full((3,), 2.0), rtol=0.01, atol=0)


def test_the_mode_of_a_linear_score_has_the_contrast_that_is_asked_for():
    module = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(module.weight, 5.0)
    found = climbed(seeker(module, contrast=9.0, sigma=2.0, mode_steps=1000))
    # |A z|^2 / trace(A A') = 9, along the gradient.
    torch.testing.assert_close(found.position.flatten(), torch.full((3,), 3.0), rtol=1e-4, atol=0)


def test_rows_say_that_they_are_modes_and_hold_nothing_of_chains():
    rows = sampler(asked()).sample(unit("ip2", 3, 5)).to_pylist()
    assert [(row["channel"], row["chain"], row["draw"]) for row in rows] == [
        (c, n, 0) for c in (3, 5) for n in range(3)
    ]
    for row in rows:
        assert (row["mode_steps"], row["gradients"], row["converged"], row["dead"]) == (40, 40, False, None)
        assert all(math.isnan(row[name]) for name in ("acceptance_rate", "step_size", "r_hat", "ess_bulk"))
        assert row["mean"] is None and row["tilt"] > 0
    draws = sampler(SamplingSettings(steps=1, warm_up=1, draws=1, thin=1, chains=3)).sample(unit("ip2", 3))
    assert set(draws["mode_steps"].to_pylist()) == {None}


def test_modes_score_more_than_draws_and_their_node_is_the_top_channel():
    rows = sampler(asked(mode_steps=100, contrast=16.0)).sample(unit("ip2", *range(10))).to_pylist()
    drawn = SamplingSettings(steps=4, warm_up=40, draws=1, thin=10, chains=3, sigma=1.0, contrast=16.0)
    draws = sampler(drawn).sample(unit("ip2", *range(10))).to_pylist()
    assert all(row["top_channel"] == row["channel"] for row in rows)
    assert np.mean([row["score"] for row in rows]) > np.mean([row["score"] for row in draws])


def test_a_node_has_the_same_modes_alone_and_in_company():
    together = [row for row in sampler(asked()).sample(unit("conv2", 1, 4, 7)).to_pylist() if row["channel"] == 4]
    for row, other in zip(sampler(asked()).sample(unit("conv2", 4)).to_pylist(), together, strict=True):
        assert np.abs(pixels(row) - pixels(other)).max() <= 1
        assert row["score"] == pytest.approx(other["score"], rel=1e-4)


def test_another_seed_climbs_from_other_starts():
    one, other = (sampler(asked(seed=seed, mode_steps=5)).sample(unit("ip2", 3)).to_pylist() for seed in (0, 1))
    assert (pixels(one[0]) != pixels(other[0])).any()


@pytest.mark.parametrize("tilting", [{"contrast": 4.0}, {"tilt": 2.0}])
@pytest.mark.parametrize("at", [1, 17, 39])
def test_a_climb_that_was_stopped_goes_on_to_the_same_bits(at, tilting):
    states = []
    whole = sampler(asked(**tilting)).sample(unit("ip2", 3, 5), on_state=lambda state: states.append(to_tensors(state)))
    assert len(states) == 40
    later = []
    again = sampler(asked(**tilting)).sample(unit("ip2", 3, 5), on_state=later.append, saved=states[at - 1])
    assert to_bytes(again) == to_bytes(whole) and len(later) == 40 - at


def test_a_state_of_other_chains_or_of_draws_is_passed_over(caplog):
    states = []
    sampler(asked(chains=2)).sample(unit("ip2", 3, chains=2), on_state=lambda state: states.append(to_tensors(state)))
    drawn = SamplingSettings(steps=1, warm_up=2, draws=1, thin=1, chains=3)
    sampler(drawn).sample(unit("ip2", 3), on_state=lambda state: states.append(to_tensors(state)))
    whole = sampler(asked()).sample(unit("ip2", 3))
    for saved in (states[0], states[-1]):
        caplog.clear()
        assert to_bytes(sampler(asked()).sample(unit("ip2", 3), saved=saved)) == to_bytes(whole)
        assert "begins anew" in caplog.text


def test_a_state_without_a_climb_is_refused():
    with pytest.raises(StoreError, match="saved chains that draw"):
        seeker(Parabola(1.0, 1.0)).check(SamplerState(BatchState()).climb)


def test_a_mode_is_one_of_the_mean_over_the_views_that_the_steps_saw():
    # Of a linear score the gradient at a view is that view's transpose of the weights, and the mode b times their mean.
    weights, steps = torch.randn((1, 1, 9, 9), generator=torch.Generator().manual_seed(3)), 400
    density = WhitenedScore(lambda x: (x * weights).flatten(1).sum(1), WhiteNoise((1, 9, 9), 1.0))
    seeker = ModeSeeker([Node("case", 0)], density, Streams(("0/case",), 2), asked(chains=2, tilt=2.0), steps)
    x = torch.zeros((1, 1, 9, 9), requires_grad=True)
    each = [torch.autograd.grad((Views.of(1, 9, 9, first=k)(x) * weights).sum(), x)[0] for k in range(steps)]
    mean = 2.0 * torch.stack(each).mean(0)
    found = climbed(seeker).position

    def apart(z):
        return ((z - mean).norm() / mean.norm()).item()

    assert apart(2.0 * each[0]) > 0.25
    assert apart(found[:1]) < 0.06, "three times as much where the steps do not become smaller"
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


class BrokenBeyond(nn.Module):
    """Scores 3 x, but what is not a number beyond 2."""

    def forward(self, x):
        return (3 * x + 1e-6 * (2 - x).sqrt()).flatten(1)


def test_a_step_to_where_the_score_is_not_finite_is_taken_back():
    found = climbed(seeker(BrokenBeyond(), tilt=0.5, chains=2, seed=3, mode_steps=60))
    assert bool(found.position.isfinite().all()) and bool((found.position < 2).all())
    beyond = climbed(seeker(BrokenBeyond(), tilt=2.0, chains=2, seed=3, mode_steps=60))
    assert bool(beyond.position.isfinite().all())


class SeldomOpen(nn.Module):
    """Scores relu(x - 1) of images of one pixel, without a gradient at 84 % of the starts."""

    def forward(self, x):
        return (x - 1).relu().flatten(1)


def test_a_chain_whose_start_has_no_gradient_is_drawn_anew_until_it_has_one():
    found = climbed(seeker(SeldomOpen(), tilt=3.0, chains=16, mode_steps=300))
    assert bool(found.open.all())
    torch.testing.assert_close(found.position.flatten(), torch.full((16,), 3.0), rtol=1e-3, atol=0)


def test_a_node_that_never_opens_is_marked_as_dead_and_its_neighbours_are_not():
    network = wrap_network(
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)), name="half", input_shape=(1, 2, 2)
    )
    with torch.no_grad():
        network.module[0].bias.copy_(torch.tensor([-1e4, 1e4]))
        network.module[2].weight.copy_(torch.eye(2)[:, :, None, None])
    rows = sampler(asked(chains=2), network).sample(unit("2", 0, 1, chains=2)).to_pylist()
    assert [bool(row["dead"]) for row in rows] == [True, True, False, False]
    assert [row["mode_steps"] for row in rows] == [None, None, 40, 40]


class Broken(nn.Module):
    def forward(self, x):
        return (x * math.nan).flatten(1)


def test_a_score_that_is_not_finite_at_the_start_names_its_node():
    with pytest.raises(ScoreError, match="node case:0"):
        seeker(Broken()).begin()


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"log_z": True}, "log_z with mode_steps"),
        ({"views": 4}, "views with mode_steps"),
        ({"resample": True}, "resample with mode_steps"),
        ({"superchains": 3}, "superchains with mode_steps"),
        ({"budget": 100}, "budget with mode_steps"),
        ({"climb": 5}, "climb with mode_steps"),
        ({"draws": 2}, "2 draws with mode_steps"),
        ({"mode_steps": 0}, "mode_steps = 0"),
    ],
)
def test_what_has_no_meaning_for_modes_is_refused(own, said):
    with pytest.raises(SettingsError, match=said):
        asked(**own)


def test_modes_have_defaults_of_their_own_in_networks_of_photographs():
    def of(settings, names):
        return {name: getattr(settings, name) for name in names}

    plain = SamplingSettings.parse({"mode_steps": 128}, where="test")
    assert (plain.draws, plain.gradients, plain.budget) == (1, 128, None)
    assert of(plain.for_images_of(3, 112), MODES) == MODES
    within = plain.for_images_of(3, 59, classes=False)
    assert of(within, FEATURE_MODES) == FEATURE_MODES and (within.budget, within.chains) == (None, 4)
    assert SamplingSettings(contrast=8.0, sigma=2.0, draws=50, seed=3, reference="white").of_modes().model_dump(
        include={"contrast", "sigma", "draws", "seed", "mode_steps"}
    ) == {"contrast": 4.0, "sigma": 2.0, "draws": 1, "seed": 3, "mode_steps": MODE_STEPS}


CLIMBING = SamplingSettings(climb=20, steps=2, warm_up=5, chains=3, draws=2, thin=2, sigma=1.0)


def climbing(**changes):
    return CLIMBING.model_copy(update=changes)


def test_chains_that_start_near_modes_draw_from_the_same_density():
    # f(x) = w x of one pixel: the density is N(b sigma w, 1) in z, from wherever the chains start.
    network = wrap_network(nn.Sequential(nn.Conv2d(1, 2, 1, bias=False)), name="line", input_shape=(1, 1, 1))
    nn.init.constant_(network.module[0].weight, 0.5)
    asked = climbing(chains=400, draws=1, thin=30, tilt=3.0, warm_up=20, sigma=2.0, steps=4)
    batch = sampler(asked, network).make_batch([Node("0", 0)], 400)
    state = batch.begin()
    while not batch.finished(state):
        state, _ = batch.step(state)
        last = state.cohorts[0]
        state, _ = batch.end_nodes(state)
    z = last.chains.position.flatten()
    assert z.mean().item() == pytest.approx(3.0, abs=4 / 20)
    assert z.std().item() == pytest.approx(1.0, abs=4 / 28)


def test_the_climb_takes_the_place_of_the_rise_and_its_gradients_count_as_those_of_one_view():
    rows = sampler(climbing(trajectory="steps", views=4)).sample(unit("ip2", 3)).to_pylist()
    assert {row["gradients"] for row in rows} == {20 // 4 + (5 + 4) * 2} == {climbing(views=4).gradients}
    assert {row["barrier"] for row in rows} == {None} and {row["mode_steps"] for row in rows} == {None}
    assert climbing().make_warm_up().anneal == 0 and climbing(climb=0).make_warm_up().anneal == 0.4


def test_chains_that_start_near_modes_score_more_at_once():
    few = {"warm_up": 1, "draws": 1, "thin": 1, "contrast": 16.0, "climb": 60}
    near, far = (
        np.mean(sampler(climbing(**{**few, **own})).sample(unit("ip2", *range(10)))["score"].to_numpy())
        for own in ({}, {"climb": 0})
    )
    assert near > far


@pytest.mark.parametrize("own", [{}, {"views": 2}, {"superchains": 3}, {"budget": 8, "batch": 3}])
def test_a_unit_stopped_while_its_chains_climb_or_later_ends_with_the_same_bits(own):
    states = []
    asked = SamplingSettings.parse({**CLIMBING.model_dump(exclude_unset=True), **own}, where="test")
    whole = sampler(asked).sample(unit("conv2", 1, 4), on_state=lambda state: states.append(to_tensors(state)))
    assert any(state["batch.cohorts.0.climb.made"] > 0 for state in states if "batch.cohorts.0.climb.made" in state)
    for saved in states[:-1]:
        assert to_bytes(sampler(asked).sample(unit("conv2", 1, 4), saved=saved)) == to_bytes(whole)


def test_a_node_starts_near_the_same_modes_alone_and_in_company():
    together = [row for row in sampler(CLIMBING).sample(unit("conv2", 1, 4, 7)).to_pylist() if row["channel"] == 4]
    for row, other in zip(sampler(CLIMBING).sample(unit("conv2", 4)).to_pylist(), together, strict=True):
        assert row["score"] == pytest.approx(other["score"], rel=1e-3)
        assert row["acceptance_rate"] == pytest.approx(other["acceptance_rate"], rel=1e-3)


def test_a_state_saved_while_other_chains_climbed_is_passed_over(caplog):
    states = []
    sampler(climbing(chains=2)).sample(
        unit("ip2", 3, chains=2), on_state=lambda state: states.append(to_tensors(state))
    )
    sampler(CLIMBING).sample(unit("ip2", 3), saved=states[0])
    assert "begins anew" in caplog.text


def test_copies_of_chains_do_not_go_with_starts_near_modes():
    with pytest.raises(SettingsError, match="resample with climb"):
        SamplingSettings.parse({"climb": 10, "resample": True}, where="test")


def test_chains_start_at_their_modes_with_the_noise_of_the_reference_around_them():
    found = seeker(Parabola(2.0, 3.0), tilt=1.0)
    climb = climbed(found)
    torch.testing.assert_close(found.around(climb) - climb.position, found.streams.start((1, 1, 1)))


def test_one_channel_that_is_not_finite_holds_the_whole_step_back():
    density = WhitenedScore(
        lambda x: 3 * x.sum((1, 2, 3)) + 1e-6 * (2 - x[:, 0, 0, 0]).sqrt(), WhiteNoise((2, 1, 1), 1.0)
    )
    found = climbed(ModeSeeker([Node("case", 0)], density, Streams(("0/case",), 2), asked(chains=2, tilt=2.0), 60))
    assert bool(found.position.isfinite().all())
