"""Superchains: chains that share a start, and nested R-hat in the rows and in the verdict."""

import numpy as np
import pytest
import torch
from test_sampling_log_z import NETWORK

from raygen.errors import SettingsError
from raygen.sampling import SamplingSettings, UnitSampler
from raygen.store import Unit

SETTINGS = SamplingSettings(chains=64, superchains=8, draws=8, thin=1, warm_up=20, steps=4, sigma=1.0, tilt=0.5)


def sample(**changes):
    settings = SETTINGS.model_copy(update=changes)
    unit = Unit("unit", "1", ("1:0", "1:1", "1:2"), settings.chains)
    return UnitSampler(NETWORK, settings, None, torch.device("cpu")).sample(unit)


def of(table, name):
    return sorted(set(zip(table["channel"].to_pylist(), table[name].to_pylist(), strict=True)))


def test_nested_r_hat_of_a_linear_score_is_close_to_one():
    table = sample()
    values = [value for _, value in of(table, "r_hat_nested")]
    assert len(values) == 3 and all(1 <= value < 1.02 for value in values)


def test_nested_r_hat_is_null_without_superchains_and_the_other_columns_are_there():
    table = sample(superchains=None)
    assert table["r_hat_nested"].null_count == table.num_rows
    for name in ("ess_bulk", "ess_tail"):
        assert all(50 < value <= 64 * 8 * 4 for _, value in of(table, name))
    assert all(0 < value < 3 for _, value in of(table, "e_bfmi"))


def test_the_chains_of_a_superchain_start_together_and_differ_from_the_others():
    # Steps so small that chains stay where they start.
    table = sample(warm_up=0, step_size=1e-5)
    first = np.array([row["score"] for row in table.to_pylist() if (row["channel"], row["draw"]) == (1, 0)])
    groups = first.reshape(8, 8)
    assert np.ptp(groups, axis=1).max() < 1e-2 and np.ptp(groups.mean(1)) > 0.1
    assert min(value for _, value in of(table, "r_hat_nested")) > 3
    assert not any(table["converged"].to_pylist())


def test_many_short_chains_converge_by_nested_r_hat_where_r_hat_says_no():
    # Steps that decorrelate slowly: each chain's draws are worth about one, all together enough.
    short = {"chains": 512, "draws": 4, "step_size": 0.05, "warm_up": 200, "ess": 50.0}
    with_, without = sample(**short, superchains=8), sample(**short, superchains=None)
    assert min(value for _, value in of(with_, "r_hat")) > 1.2
    assert max(value for _, value in of(with_, "r_hat_nested")) < 1.05
    assert all(with_["converged"].to_pylist()) and not any(without["converged"].to_pylist())


@pytest.mark.parametrize("limits", [{"r_hat": 1.0001}, {"ess": 1e6}])
def test_both_limits_count(limits):
    assert all(sample()["converged"].to_pylist())
    assert not any(sample(**limits)["converged"].to_pylist())


@pytest.mark.parametrize("superchains", [3, 128])
def test_superchains_that_do_not_divide_the_chains_are_refused_in_one_line(superchains):
    with pytest.raises(SettingsError) as caught:
        SamplingSettings.parse({"chains": 64, "superchains": superchains}, where="test")
    wanted = f"superchains: superchains = {superchains} for 64 chains; give a divisor of 64 of at least 2"
    assert str(caught.value) == wanted
