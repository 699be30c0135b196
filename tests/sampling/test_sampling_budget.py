"""Convergence decides: a node stops when its diagnostics say so, or its budget ends, and makes room for the next."""

import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from raygen.errors import SettingsError
from raygen.hmc import diagnose, rebuild, to_tensors
from raygen.networks import Node, read_node, wrap_network
from raygen.runs import begin_run, plan_units, sample_here
from raygen.sampling import SamplingSettings, UnitSampler
from raygen.sampling.draws import Draw, DrawsKept
from raygen.store import Unit
from raygen.tilting import WhitenedScore

SHAPE = (1, 4, 4)
SETTINGS = SamplingSettings(
    chains=6, warm_up=20, draws=5, thin=8, sigma=1.0, tilt=1.0, steps=4, r_hat=1.15, ess=60, budget=160, batch=12,
)  # fmt: skip
ROUND = 40
EASY, HARD = (0, 1, 2), (3, 4)
"""Linear scores, which tilt the Gaussian to another; and |7 x|, whose two modes no chain ever leaves."""


def network():
    generator = torch.Generator().manual_seed(2)
    lines = torch.linalg.qr(torch.randn((16, 5), generator=generator))[0].T
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 5)).requires_grad_(False)
    with torch.no_grad():
        module[1].weight.copy_(torch.cat([lines, -lines]))
        module[1].bias.zero_()
        module[3].bias.zero_()
        module[3].weight.zero_()
        for node in range(5):
            # relu(a) - relu(-a) = a, and relu(a) + relu(-a) = |a|.
            module[3].weight[node, node] = 1.0 if node in EASY else 7.0
            module[3].weight[node, 5 + node] = -1.0 if node in EASY else 7.0
    return wrap_network(module, name="modes", input_shape=SHAPE)


NETWORK = network()


class Counted(WhitenedScore):
    """The score, which counts the rows whose gradient was asked for, and remembers the largest batch."""

    gradients = 0
    batches: list[int] = []  # noqa: RUF012

    def rows(self, chosen):
        part = super().rows(chosen)
        return Counted(part.score, part.reference, force=part.force)

    def value_and_gradient(self, z):
        Counted.gradients += len(z)
        Counted.batches.append(len(z))
        return super().value_and_gradient(z)


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr("raygen.sampling.targets.WhitenedScore", Counted)
    Counted.gradients, Counted.batches = 0, []
    return Counted


def sampler(**changes):
    return UnitSampler(NETWORK, SETTINGS.model_copy(update=changes), None, torch.device("cpu"))


def unit(*channels, chains=6):
    return Unit("unit", "3", tuple(f"3:{channel}" for channel in channels), chains)


def heads(table):
    return {row["channel"]: row for row in table.to_pylist() if row["chain"] == row["draw"] == 0}


def test_an_easy_node_stops_at_the_first_look_and_a_hard_one_at_its_budgets_end(counted):
    table = sampler().sample(unit(0, 3))
    rows = heads(table)
    assert (rows[0]["stop_reason"], rows[0]["converged"], rows[0]["trajectories"]) == ("converged", True, ROUND)
    assert (rows[3]["stop_reason"], rows[3]["converged"], rows[3]["trajectories"]) == ("budget", False, 160)
    assert rows[0]["r_hat"] <= 1.15 and rows[0]["ess_bulk"] >= 60
    firsts = [row for row in table.to_pylist() if row["draw"] == 0]
    assert counted.gradients == sum(row["gradients"] for row in firsts) + len(firsts)  # and one where each starts
    assert set(counted.batches) == {12, 6}  # the batch shrinks when the easy node has gone


def test_without_a_budget_all_nodes_take_the_same_and_nothing_is_said():
    rows = heads(sampler(budget=None).sample(unit(0, 3)))
    assert [(row["stop_reason"], row["trajectories"]) for row in rows.values()] == [(None, ROUND)] * 2


def test_the_rows_of_a_node_are_of_all_its_trajectories():
    table, traces = sampler().sample(unit(0, 3)), sampler().trace(unit(0, 3)).to_arviz()
    for row in table.to_pylist():
        found = traces[row["node"]]
        scores, rates = found["posterior"]["score"], found["sample_stats"]["acceptance_rate"]
        assert scores.shape == (6, row["trajectories"])
        assert row["acceptance_rate"] == pytest.approx(rates[row["chain"]].mean(), rel=1e-5)
        every = row["trajectories"] // 5
        assert row["score"] == scores[row["chain"], (row["draw"] + 1) * every - 1]


def test_as_many_draws_are_kept_of_a_long_chain_as_of_a_short_one():
    table = sampler(budget=130).sample(unit(0, 3))
    counts = [(row["channel"], row["chain"]) for row in table.to_pylist()]
    assert {counts.count(key) for key in counts} == {5}
    assert {row["trajectories"] for row in table.to_pylist()} == {ROUND, 130}


def test_those_in_line_begin_when_others_have_stopped(counted):
    table = sampler().sample(unit(3, 0, 1, 4, 2))
    rows = heads(table)
    assert [row["node"] for row in table.to_pylist()][::30] == ["3:3", "3:0", "3:1", "3:4", "3:2"]
    assert max(counted.batches) == 12  # two nodes at once
    assert {channel: row["stop_reason"] for channel, row in rows.items()} == {
        **dict.fromkeys(EASY, "converged"), **dict.fromkeys(HARD, "budget"),
    }  # fmt: skip
    firsts = [row for row in table.to_pylist() if row["draw"] == 0]
    assert counted.gradients == sum(row["gradients"] for row in firsts) + len(firsts)


@pytest.mark.parametrize("changes", [{}, {"tilt": None, "contrast": 1.0}, {"trajectory": "chees", "each_chain": True}])
def test_a_nodes_samples_do_not_depend_on_who_shares_its_batch(changes):
    # Few and short trajectories: chains that kinks push about amplify round-off in the end.
    short = {"draws": 2, "thin": 2, "warm_up": 6, "budget": 12, "ess": 8, "r_hat": 1.4, **changes}
    together = sampler(**short).sample(unit(3, 0, 1, 4, 2)).to_pylist()
    order = sampler(**short, seed=SETTINGS.seed).sample(unit(2, 4, 0, 3, 1)).to_pylist()
    for channel in (*EASY, *HARD):
        alone = sampler(**short).sample(unit(channel)).to_pylist()
        for shared in (together, order):
            mine = [row for row in shared if row["channel"] == channel]
            assert len(mine) == len(alone) == 12
            for row, other in zip(mine, alone, strict=True):
                for name in ("score", "potential", "tilt", "step_size", "acceptance_rate", "contrast"):
                    assert row[name] == pytest.approx(other[name], rel=2e-3, abs=2e-3), name
                for name in ("stop_reason", "trajectories", "gradients", "converged", "chain", "draw"):
                    assert row[name] == other[name], name


def test_a_target_that_is_never_met_costs_the_whole_budget_and_says_so():
    rows = heads(sampler(ess=1e9).sample(unit(*EASY)))
    assert {(row["stop_reason"], row["trajectories"]) for row in rows.values()} == {("budget", 160)}


def test_a_node_that_converges_at_the_very_end_has_converged():
    # Its first look is its last.
    rows = heads(sampler(budget=ROUND).sample(unit(0, 3)))
    assert [(row["stop_reason"], row["converged"]) for row in rows.values()] == [("converged", True), ("budget", False)]


def test_later_looks_are_further_apart(monkeypatch):
    looks = []

    def look(trace, *rest):
        looks.append(len(trace))
        return diagnose(trace, *rest)

    monkeypatch.setattr("raygen.sampling.cohort.diagnose", look)
    sampler(ess=1e9, budget=1000, thin=1, warm_up=2, chains=2, steps=1).sample(unit(0, chains=2))
    assert looks[:8] == [5, 10, 15, 20, 25, 30, 35, 40] and looks[-1] == 1000
    assert all(later <= 1.125 * look + 5 for look, later in pairwise(looks))
    assert len(looks) < 40


def test_progress_counts_what_is_no_longer_needed_as_made():
    seen = []
    sampler().sample(unit(0, 3, 1), lambda progress: seen.append(progress.fraction))
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1)
    assert seen[0] == pytest.approx(2 / (3 * 180))
    assert max(np.diff(seen)) > 120 / (3 * 180)  # the 120 trajectories that an easy node spared


def test_log_z_of_a_line_is_that_of_each_node_alone():
    asked = {"log_z": True, "log_z_rungs": 8, "chains": 16, "batch": 32, "tilt": 0.8}
    seen = []
    rows = heads(sampler(**asked).sample(unit(0, 3, 1, chains=16), lambda progress: seen.append(progress.fraction)))
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1)
    alone = heads(sampler(**asked).sample(unit(1, chains=16)))
    assert rows[1]["log_z"] == pytest.approx(alone[1]["log_z"], rel=1e-3)
    for channel in (0, 1):  # log E exp(b a) of a standard normal a
        assert rows[channel]["log_z"] == pytest.approx(0.32, abs=5 * rows[channel]["log_z_error"])
    exact = math.log(2) + (7 * 0.8) ** 2 / 2  # E exp(b 7 |a|), nearly
    assert rows[3]["log_z"] > exact - 8 > 0


def test_a_run_says_how_many_converged_and_what_it_cost(tmp_path):
    nodes = [read_node(f"3:{channel}") for channel in (0, 3, 1, 4, 2)]
    run = begin_run(str(tmp_path), NETWORK, nodes, SETTINGS, images=None, about={})
    (one,) = run.plan
    assert len(one.nodes) == 5  # more than fit a batch
    report = sample_here(run, sampler(), lambda _: None)
    table = run.samples(one)
    firsts = [row for row in table.to_pylist() if row["draw"] == 0]
    assert table["stop_reason"].to_pylist().count("converged") == 3 * 6 * 5
    assert sum(layer.gradients for layer in report.layers.values()) == sum(row["gradients"] for row in firsts)


@pytest.mark.parametrize("budget", [1, 39])
def test_a_budget_for_fewer_draws_than_are_kept_is_refused(budget):
    with pytest.raises(SettingsError, match=r"^budget: budget = .* for 5 draws.*give at least 40, or fewer draws$"):
        SamplingSettings.parse({**SETTINGS.model_dump(exclude_unset=True), "budget": budget}, where="test")


def test_units_of_a_budget_hold_a_line():
    nodes = [Node("conv1", channel) for channel in range(20)]
    plain = tuple(plan_units(nodes, chains=4, batch=8))
    lined = tuple(plan_units(nodes, chains=4, batch=8, line=4))
    assert [len(unit.nodes) for unit in plain] == [2] * 10
    assert [len(unit.nodes) for unit in lined] == [8, 8, 4]


# ---- what is kept


def draw_of(count, chains=3):
    numbers = torch.arange(chains) + 100.0 * count
    image = io.BytesIO()
    Image.new("L", (1, 1)).save(image, format="PNG")
    return Draw(tuple(image.getvalue() + bytes([row]) for row in range(chains)), *([numbers] * 6))


@hypothesis_settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 300), st.integers(0, 300))
def test_kept_draws_are_bounded_even_and_survive_being_saved(wanted, thin, more, left):
    kept, length = DrawsKept(thin), wanted * thin + more
    for count in range(1, length + 1):
        if kept.due(count):
            kept = kept.add(draw_of(count), wanted)
            assert len(kept.draws) < 2 * wanted
        if count == left:
            kept = rebuild(DrawsKept, to_tensors(kept), torch.device("cpu"))
    draws = kept.rows(torch.tensor([2, 0])).spread(wanted)
    counts = [int(draw.score[1]) // 100 for draw in draws]
    assert len(counts) == wanted and all(draw.images[0][-1:] == bytes([2]) for draw in draws)
    gaps = np.diff([0, *counts])
    assert all(gap in {kept.every, 2 * kept.every} for gap in gaps)
    assert length - counts[-1] < kept.every
