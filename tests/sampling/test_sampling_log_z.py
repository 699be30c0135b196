"""log Z of nodes whose score is linear, by its closed form; asked for, beside the samples, and left alone."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from raygen.errors import SettingsError
from raygen.hmc import Kernel, Streams
from raygen.networks import Node, wrap_network
from raygen.runs import begin_run, sample_here
from raygen.sampling import SamplingSettings, UnitSampler
from raygen.sampling.log_z import LogZEstimator, LogZState
from raygen.store import Unit
from raygen.tilting import Fitted, save_reference

SHAPE = (1, 3, 4)
LOG_Z = ["log_z", "log_z_error", "log_z_ess", "log_z_gradients"]
SETTINGS = SamplingSettings(log_z=True, chains=48, draws=4, thin=1, warm_up=12, steps=3, sigma=1.5, tilt=1.4)


def linear_network(scale=0.4):
    """Three nodes, each a linear score of twelve pixels with a bias."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        module[1].weight.copy_(scale * torch.randn((3, 12), generator=generator))
        module[1].bias.copy_(torch.tensor([0.0, 3.0, -2.0]))
    return wrap_network(module, name="linear", input_shape=SHAPE)


NETWORK = linear_network()


def changed(**changes):
    return SETTINGS.model_copy(update=changes)


def sample(settings=SETTINGS, network=NETWORK, channels=(0, 1, 2), on_progress=None):
    unit = Unit("unit", "1", tuple(f"1:{channel}" for channel in channels), settings.chains)
    return UnitSampler(network, settings, None, torch.device("cpu")).sample(unit, on_progress)


def heads(table):
    """One row a node; its other rows must say the same."""
    rows = {}
    for row in table.to_pylist():
        known = rows.setdefault(row["channel"], row)
        np.testing.assert_equal([row[name] for name in LOG_Z], [known[name] for name in LOG_Z])
    return rows


def weights(channel):
    return NETWORK.module[1].weight[channel].double(), NETWORK.module[1].bias[channel].item()


def assert_right(rows, exact, chains=48):
    for channel, row in rows.items():
        value = exact(channel, row["tilt"])
        assert abs(row["log_z"] - value) < 4 * row["log_z_error"], (channel, value)
        assert 0 < row["log_z_error"] < 0.3
        assert 10 < row["log_z_ess"] <= chains


def white(channel, tilt):
    slope, bias = weights(channel)
    return (tilt * 1.5) ** 2 * slope.square().sum().item() / 2 + tilt * bias


@pytest.mark.parametrize("kernel", ["rotation", "leapfrog", "langevin"])
def test_log_z_of_a_linear_score_is_the_closed_form(kernel):
    assert_right(heads(sample(changed(kernel=kernel))), white)


def test_log_z_is_of_the_tilt_that_warm_up_found():
    rows = heads(sample(changed(tilt=None, contrast=0.2)))
    assert len({row["tilt"] for row in rows.values()}) == 3
    assert_right(rows, white)


def test_log_z_is_of_the_reference_that_is_sampled(tmp_path):
    images = torch.randn((500, *SHAPE), generator=torch.Generator().manual_seed(1)).cumsum(3) + 0.5
    fitted = Fitted.of(images)
    save_reference(tmp_path / "fitted.safetensors", fitted)

    def exact(channel, tilt):
        slope, bias = weights(channel)
        spread = fitted.root.double() @ slope
        return tilt**2 * spread.square().sum().item() / 2 + tilt * (fitted.mean.double().flatten() @ slope + bias)

    assert_right(heads(sample(changed(reference_file=str(tmp_path / "fitted.safetensors"), tilt=0.7))), exact)


def test_a_profiles_tilt_is_the_one_that_log_z_is_of():
    sampler = UnitSampler(NETWORK, SETTINGS, None, torch.device("cpu"), {"1": {"tilt": 0.5}})
    rows = heads(sampler.sample(Unit("unit", "1", ("1:0", "1:2"), 48)))
    assert {row["tilt"] for row in rows.values()} == {0.5}
    assert_right(rows, white)


def test_fewer_rungs_cost_less_and_say_less():
    coarse, fine = (heads(sample(changed(log_z_rungs=rungs)))[0] for rungs in (2, 40))
    assert fine["log_z_gradients"] - coarse["log_z_gradients"] == 38 * 3
    assert fine["log_z_error"] < coarse["log_z_error"]


def test_log_z_does_not_change_the_samples_and_is_null_where_not_asked_for():
    asked, plain = sample(), sample(changed(log_z=False))
    assert asked.drop(LOG_Z).equals(plain.drop(LOG_Z))
    assert all(plain[name].null_count == plain.num_rows for name in LOG_Z)
    assert all(asked[name].null_count == 0 for name in LOG_Z)


def test_log_z_of_a_node_does_not_depend_on_who_shares_its_unit():
    alone, shared = heads(sample(channels=(1,)))[1], heads(sample())[1]
    assert alone["log_z"] == pytest.approx(shared["log_z"], rel=1e-4)


def test_a_tilt_that_is_not_finite_has_no_log_z_and_keeps_the_samples(caplog):
    # A gradient so small that the tilt for its contrast overflows.
    network = linear_network(0.0)
    with torch.no_grad():
        network.module[1].weight.fill_(4e-23)
    rows = heads(sample(changed(tilt=None, contrast=4.0, chains=4), network, channels=(0,)))
    assert math.isinf(rows[0]["tilt"]) and math.isnan(rows[0]["log_z"]) and math.isnan(rows[0]["log_z_error"])
    assert "tilt = inf" in caplog.text


def test_progress_goes_on_through_log_z():
    seen = []
    sample(changed(log_z_rungs=6), on_progress=seen.append)
    fractions = [progress.fraction for progress in seen]
    chains = 12 + 4
    assert fractions[:chains] == pytest.approx([(count + 1) / chains / 2 for count in range(chains)])
    # Six rungs have five moves between them.
    assert fractions[chains:] == pytest.approx([0.5 + (count + 1) / 5 / 2 for count in range(5)])
    assert all(math.isnan(progress.acceptance) for progress in seen[chains:])


class Counting:
    """f = a.z, whose gradients are counted."""

    cheap_forces = False
    count = 0

    def value(self, z):
        return z.sum(1)

    def gradient(self, z):
        return self.value_and_gradient(z)[1]

    def value_and_gradient(self, z):
        self.count += 1
        return self.value(z), torch.ones_like(z)


def test_all_gradients_are_counted():
    score = Counting()
    streams, tilt = Streams(("a", "b"), 8), torch.tensor([0.5, 1.0])
    estimator, state = LogZEstimator(Kernel(steps=3), score, streams, tilt, (4,), rungs=None), LogZState()
    while not estimator.finished(state):
        state = estimator.step(state)
    # But for the one where the pilot chains start.
    assert {node.gradients for node in estimator.result(state)} == {score.count - 1}


def test_a_units_report_counts_the_gradients_of_log_z(tmp_path):
    settings = changed(chains=4)
    run = begin_run(str(tmp_path), NETWORK, [Node("1", 0), Node("1", 2)], settings, images=None, about={})
    report = sample_here(run, UnitSampler(NETWORK, settings, None, torch.device("cpu")), lambda _: None)
    (table,) = (run.samples(unit) for unit in run.plan)
    each = np.array(table["gradients"]) + np.array(table["log_z_gradients"])
    assert report.made.gradients == each[np.array(table["draw"]) == 0].sum() > 8 * 48


def test_a_biased_kernel_is_refused():
    with pytest.raises(SettingsError, match=r"^log_z: log_z with adjusted = false.*; leave one of them out$"):
        SamplingSettings.parse({"log_z": True, "adjusted": False}, where="test")
