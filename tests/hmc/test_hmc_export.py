"""Chains as ArviZ names them."""

import numpy as np
import pytest
import torch
from hmc_targets import parameters, quadratic, streams

from raygen.hmc import ARVIZ_DIMS, Kernel, Trace, diagnose, draw, to_arviz
from raygen.hmc.chains import PROJECTIONS

CHAINS, DRAWS = 3, 11

SCHEMA = {
    "lp", "acceptance_rate", "step_size", "step_size_nom", "tree_depth", "n_steps", "diverging", "energy",
    "energy_error", "max_energy_error",
}  # fmt: skip
"""Names of ``sample_stats`` in ArviZ's schema."""


@pytest.fixture(scope="module")
def drawn():
    kernel, target, noise = Kernel("rotation", 2), quadratic(torch.eye(4).double()), streams(CHAINS, "a", "b")
    settings = parameters(2 * CHAINS, 0.5, 1.0)
    settings.step_size[CHAINS:] = 0.25
    state = kernel.init(target, noise.start((4,)))
    _, trace = draw(kernel, target, state, settings, noise, first=0, iterations=DRAWS, on_step=lambda *_: None)
    return trace, settings


def test_all_groups_have_chains_and_draws_first(drawn):
    trace, settings = drawn
    groups = to_arviz(trace, CHAINS, 1, parameters=settings, steps=2)
    assert set(groups) == {"posterior", "sample_stats"}
    assert set(groups["posterior"]) == {"score", "projection"}
    assert groups["posterior"]["projection"].shape == (CHAINS, DRAWS, PROJECTIONS)
    assert groups["posterior"]["score"].shape == (CHAINS, DRAWS)
    assert all(values.shape == (CHAINS, DRAWS) for values in groups["sample_stats"].values())


def test_statistics_have_the_names_of_the_schema(drawn):
    trace, settings = drawn
    stats = to_arviz(trace, CHAINS, parameters=settings, steps=2)["sample_stats"]
    assert set(stats) == {"energy", "acceptance_rate", "diverging", "lp", "step_size", "n_steps"} <= SCHEMA
    assert stats["diverging"].dtype == bool and stats["n_steps"].dtype.kind == "i"


@pytest.mark.parametrize("node", [0, 1])
def test_the_values_are_those_of_the_node(drawn, node):
    trace, settings = drawn
    groups = to_arviz(trace, CHAINS, node, parameters=settings, steps=2)
    for chain in range(CHAINS):
        row = node * CHAINS + chain
        np.testing.assert_array_equal(groups["posterior"]["score"][chain], trace.score[:, row])
        np.testing.assert_array_equal(groups["posterior"]["projection"][chain], trace.projections[:, row])
        np.testing.assert_array_equal(groups["sample_stats"]["energy"][chain], trace.energy[:, row])
        np.testing.assert_array_equal(groups["sample_stats"]["acceptance_rate"][chain], trace.acceptance[:, row])
        np.testing.assert_array_equal(groups["sample_stats"]["lp"][chain], -trace.potential[:, row])
    assert (groups["sample_stats"]["step_size"] == (0.5, 0.25)[node]).all()
    assert (groups["sample_stats"]["n_steps"] == 2).all()


def test_what_is_not_known_is_left_out(drawn):
    trace, _ = drawn
    bare = Trace(trace.score, trace.energy, trace.projections, trace.acceptance, trace.diverged)
    assert set(to_arviz(bare, CHAINS)["sample_stats"]) == {"energy", "acceptance_rate", "diverging"}


def test_the_arrays_are_plain_and_hold_what_the_diagnostics_are_of(drawn):
    from arviz_stats.base.array import array_stats

    trace, _ = drawn
    groups = to_arviz(trace, CHAINS, 1)
    assert all(type(values) is np.ndarray for group in groups.values() for values in group.values())
    found = diagnose(trace, CHAINS)[1]
    assert float(array_stats.rhat(groups["posterior"]["score"])) == pytest.approx(found.r_hat)
    assert float(np.min(array_stats.bfmi(groups["sample_stats"]["energy"]))) == pytest.approx(found.bfmi)


@pytest.mark.parametrize("node", [-1, 2])
def test_a_node_that_is_not_there_is_an_index_error(drawn, node):
    with pytest.raises(IndexError, match=f"node {node} of 2"):
        to_arviz(drawn[0], CHAINS, node)


def test_arviz_reads_it(drawn):
    arviz_base = pytest.importorskip("arviz_base")
    trace, settings = drawn
    tree = arviz_base.from_dict(to_arviz(trace, CHAINS, 1, parameters=settings, steps=2), dims=dict(ARVIZ_DIMS))
    assert tree["posterior"]["projection"].dims == ("chain", "draw", "direction")
    assert tree["sample_stats"]["energy"].dims == ("chain", "draw")
    np.testing.assert_array_equal(tree["posterior"]["score"].values[2], trace.score[:, CHAINS + 2])
