"""A unit left after any trajectory and taken up elsewhere comes to the samples it would have come to, bit for bit."""

import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from committed import committed
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from raygen.hmc import to_tensors
from raygen.networks import NetworkSettings, load_network, read_node, wrap_network
from raygen.runs import begin_run, sample_here, sample_unit
from raygen.runs.run import read_state
from raygen.sampling import SamplingSettings, UnitSampler
from raygen.store import Run, Unit
from raygen.tilting import WhitenedScore

FEW = SamplingSettings(
    steps=3, warm_up=8, chains=4, draws=2, thin=2, sigma=1.0, contrast=2.0, batch=8, r_hat=1.3, ess=8, seed=3
)
SETTINGS = {
    "angle": {},
    "chees": {"trajectory": "chees"},
    "steps, each chain": {"trajectory": "steps", "each_chain": True, "tilt": 1.5},
    "superchains": {"superchains": 2},
    "no warm-up": {"warm_up": 0, "step_size": 0.2},
    "power law, cheap forces": {"reference": "power-law", "forces": "bfloat16"},
    "leapfrog": {"kernel": "leapfrog", "step_size": 0.1},
    "log Z": {"log_z": True, "tilt": 0.4, "trajectory": "chees"},
    "views": {"views": 3, "bounded": True},
    "resampling": {"resample": True, "tilt": 3.0},
    "budget, resampling, each chain": {"budget": 9, "resample": True, "tilt": 3.0, "each_chain": True},
    "budget": {"budget": 10},
    "budget, chees, each chain": {"budget": 9, "trajectory": "chees", "each_chain": True, "superchains": 2},
    "budget, log Z": {"budget": 8, "log_z": True, "tilt": 0.4, "log_z_rungs": 4},
}
"""With a budget two of the unit's nodes go at once, the others wait in line."""


def colour_network():
    torch.manual_seed(5)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 6)
    ).requires_grad_(False)
    return wrap_network(module, name="colour", input_shape=(3, 8, 8))


NETWORK = colour_network()
UNIT = Unit("unit", "5", ("5:0", "5:3", "5:2", "5:4", "5:1"), 4)


def sampler(changes, network=NETWORK):
    settings = SamplingSettings.parse({**FEW.model_dump(exclude_unset=True), **changes}, where="test")
    return UnitSampler(network, settings, None, torch.device("cpu"))


_WHOLE = {}


def whole(name):
    """The undisturbed rows, and the state after each trajectory."""
    if name not in _WHOLE:
        states = []
        rows = sampler(SETTINGS[name]).sample(UNIT, on_state=lambda state: states.append(to_tensors(state)))
        _WHOLE[name] = rows, states
    return _WHOLE[name]


@pytest.mark.parametrize("name", SETTINGS)
def test_saving_changes_no_sample(name):
    assert whole(name)[0].equals(sampler(SETTINGS[name]).sample(UNIT))


@pytest.mark.parametrize("name", SETTINGS)
@hypothesis_settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_unit_left_after_any_trajectory_goes_on_to_the_same_samples(name, data):
    rows, states = whole(name)
    left = data.draw(st.integers(0, len(states) - 1))
    more = []
    again = sampler(SETTINGS[name]).sample(
        UNIT, saved=states[left], on_state=lambda state: more.append(to_tensors(state))
    )
    assert again.equals(rows)
    assert len(more) == len(states) - 1 - left  # it made what was missing, and no more
    for found, known in zip(more, states[left + 1 :], strict=True):
        assert found.keys() == known.keys()
        assert all(torch.equal(found[key].nan_to_num(), known[key].nan_to_num()) for key in known)


def test_a_unit_may_be_left_again_and_again():
    rows, states = whole("budget")
    saved = None
    for _ in range(len(states)):
        made = []

        def leave(state, made=made):
            made.append(to_tensors(state))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sampler(SETTINGS["budget"]).sample(UNIT, saved=saved, on_state=leave)
        (saved,) = made
    assert sampler(SETTINGS["budget"]).sample(UNIT, saved=saved).equals(rows)


def test_constant_nodes_of_a_unit_that_is_taken_up_stay_marked():
    module = colour_network()
    with torch.no_grad():
        module.module[5].weight[3] = 0.0
    states = []
    rows = sampler({}, module).sample(UNIT, on_state=lambda state: states.append(to_tensors(state)))
    again = sampler({}, module).sample(UNIT, saved=states[5])
    assert str(again.to_pylist()) == str(rows.to_pylist())  # which have NaN in common
    assert sum(dead is not None for dead in rows["dead"].to_pylist()) == 4


@pytest.mark.parametrize("layer", ["conv1", "conv2", "ip2"])
def test_lenet_goes_on_bit_for_bit(layer):
    network = load_network(NetworkSettings(weights="random"))
    unit, states = Unit("u", layer, (f"{layer}:1", f"{layer}:4", f"{layer}:7"), 4), []
    rows = sampler({"budget": 8}, network).sample(unit, on_state=lambda state: states.append(to_tensors(state)))
    for left in range(0, len(states), 3):
        assert sampler({"budget": 8}, network).sample(unit, saved=states[left]).equals(rows), left


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: saved.pop("batch.begun"),
        lambda saved: saved.update({"rows": torch.zeros(9).byte(), "rows.sizes": torch.tensor([9])}),
        lambda saved: saved.update({"rows": torch.zeros(9).byte(), "rows.sizes": torch.tensor([40])}),
        lambda saved: saved.update({"rows.sizes": torch.tensor([40])}),
        lambda saved: saved.pop("batch.cohorts.0.warm.chains.position"),
        lambda saved: saved.update({"batch.cohorts.0.indices": torch.tensor([0, 9])}),
        lambda saved: saved.update({"batch.cohorts.0.warm.step_size.log_step": torch.zeros(7)}),
        lambda saved: saved.update({"batch.cohorts.0.spent": torch.zeros(7).long()}),
        lambda saved: saved.update({"another": torch.zeros(7)}),
    ],
)
def test_a_state_that_does_not_fit_is_passed_over_and_a_warning_says_so(damage, caplog):
    rows, states = whole("angle")
    saved = dict(states[3])
    damage(saved)
    assert sampler({}).sample(UNIT, saved=saved).equals(rows)
    assert "begins anew" in caplog.text


# ---- in a run's folder


def run_at(folder, changes=None, nodes=("5:0", "5:3", "5:2")):
    settings = FEW.model_copy(update=changes or {})
    return begin_run(str(folder), NETWORK, [read_node(node) for node in nodes], settings, images=None, about={})


class HaltError(Exception):
    """Ends a unit on its way."""


def halt_after(trajectories):
    def on_progress(progress):
        if progress.fraction >= trajectories / 12:
            raise HaltError

    return on_progress


def leave(run, unit, trajectories=8, save_every=1e-9):
    """Sample a unit of 12 trajectories, saving as often as it may, and leave it."""
    with pytest.raises(HaltError):
        sample_unit(run, sampler({}), unit, halt_after(trajectories), save_every=save_every)


@pytest.fixture
def hasty(monkeypatch):
    """Saving may take all of the time."""
    monkeypatch.setattr("raygen.runs.run._SHARE", 1e9)


def fractions(run, unit):
    seen = []
    sample_unit(run, sampler({}), unit, lambda progress: seen.append(progress.fraction))
    return seen


@pytest.mark.usefixtures("hasty")
def test_another_sampler_goes_on_from_the_folder_and_the_commit_drops_the_state(tmp_path):
    run, whole_run = run_at(tmp_path / "left"), run_at(tmp_path / "whole")
    unit = run.plan[0]
    leave(run, unit)
    assert [path.name for path in (tmp_path / "left/state").iterdir()] == [f"{unit.name}.safetensors"]
    # The seventh trajectory was saved, the eighth was made and lost.
    assert fractions(run, unit) == pytest.approx([count / 12 for count in range(8, 13)])
    assert len(fractions(whole_run, unit)) == 12
    assert run.samples(unit).equals(whole_run.samples(unit))
    assert list((tmp_path / "left/state").iterdir()) == []
    assert committed(run) == {unit.name}


@pytest.mark.usefixtures("hasty")
def test_a_unit_goes_on_where_saving_is_switched_off(tmp_path):
    run = run_at(tmp_path)
    unit = run.plan[0]
    leave(run, unit)
    seen = []
    sample_unit(run, sampler({}), unit, seen.append, save_every=0)
    assert len(seen) == 5


@pytest.mark.parametrize("save_every", [0, 3600])
def test_nothing_is_saved_of_short_units_or_where_it_is_switched_off(tmp_path, save_every):
    run = run_at(tmp_path)
    leave(run, run.plan[0], save_every=save_every)
    assert not (tmp_path / "state").exists()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "tear",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-4096] + bytes(4096),
        lambda data: b"",
        lambda data: bytes(len(data)),
        lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
    ],
)
def test_a_torn_state_is_passed_over(tmp_path, tear):
    run = run_at(tmp_path)
    unit = run.plan[0]
    leave(run, unit)
    path = tmp_path / run.state(unit).path
    path.write_bytes(tear(path.read_bytes()))
    assert read_state(run, unit) is None
    assert len(fractions(run, unit)) == 12


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("changes", "nodes"), [({"seed": 4}, ("5:0", "5:3")), ({}, ("5:0", "5:4"))])
def test_the_state_of_another_run_or_unit_is_passed_over(tmp_path, changes, nodes):
    run, other = run_at(tmp_path / "one", nodes=("5:0", "5:3")), run_at(tmp_path / "other", changes, nodes)
    unit, theirs = run.plan[0], other.plan[0]
    leave(run, unit)
    target = tmp_path / "other" / other.state(theirs).path
    target.parent.mkdir()
    target.write_bytes((tmp_path / "one" / run.state(unit).path).read_bytes())
    assert unit.name == theirs.name
    assert read_state(run, unit) is not None and read_state(other, theirs) is None


@pytest.mark.usefixtures("hasty")
def test_of_two_copies_of_a_unit_the_slower_leaves_nothing_behind(tmp_path):
    run = run_at(tmp_path)
    unit = run.plan[0]
    made = []

    def on_progress(progress):
        made.append(progress)
        if len(made) == 6:
            sample_unit(run, sampler({}), unit)  # the other copy takes it up, and commits
        if len(made) == 9:
            raise HaltError  # a farm ends the slower one

    with pytest.raises(HaltError):
        sample_unit(run, sampler({}), unit, on_progress, save_every=1e-9)
    whole_run = run_at(tmp_path / "whole")
    sample_unit(whole_run, sampler({}), unit)
    assert run.samples(unit).equals(whole_run.samples(unit))
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.usefixtures("hasty")
def test_storage_that_refuses_the_state_costs_no_sample(tmp_path, caplog):
    run = run_at(tmp_path)
    unit = run.plan[0]
    (tmp_path / "state").write_text("a file where the folder should be")
    sample_unit(run, sampler({}), unit, save_every=1e-9)
    assert committed(run) == {unit.name} and "is not saved" in caplog.text


def test_saving_takes_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch):
    run = run_at(tmp_path)
    unit = run.plan[0]
    clock, saves = [0.0], []
    monkeypatch.setattr("raygen.runs.run.time.monotonic", lambda: clock[0])

    def write(self, arrays):
        saves.append(clock[0])
        clock[0] += 3.0  # a slow storage

    monkeypatch.setattr("raygen.store.states.UnitState.write", write)

    def on_progress(progress):
        clock[0] += 10.0

    sample_unit(run, sampler({}), unit, on_progress, save_every=15)
    assert saves == [20.0, 83.0]  # after 15 s, and then after 20 times the 3 s


class Counted(WhitenedScore):
    """The score, which counts the rows whose gradient was asked for."""

    gradients = 0

    def rows(self, chosen):
        part = super().rows(chosen)
        return Counted(part.score, part.reference, force=part.force)

    def value_and_gradient(self, z):
        Counted.gradients += len(z)
        return super().value_and_gradient(z)


@pytest.mark.slow
def test_the_next_process_continues_where_a_killed_one_was(tmp_path, launcher, lenet_file, monkeypatch):
    folder, settings = tmp_path / "run", {"warm_up": 40, "draws": 4, "thin": 40, "sigma": 1.0, "chains": 8}
    nodes = "ip2:0-3"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    process = launcher.raygen("sample", "--local", "--weights", lenet_file, "--nodes", nodes, "--out", folder,
                              "--save-every", "0.01", *options)  # fmt: skip
    state, deadline = folder / "state/ip2-00000.safetensors", time.monotonic() + 60
    versions = set()
    while len(versions) < 4 and process.poll() is None and time.monotonic() < deadline:
        if state.exists():
            versions.add(state.stat().st_mtime_ns)
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    for pid in launcher.alive():
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    run = Run.open(str(folder))
    (unit,) = run.plan
    assert len(versions) == 4 and not committed(run)
    made = int(read_state(run, unit)["batch.cohorts.0.spent"].sum())
    assert made > 0

    monkeypatch.setattr("raygen.sampling.targets.WhitenedScore", Counted)
    network, threads = load_network(NetworkSettings(weights=str(lenet_file))), torch.get_num_threads()
    asked = SamplingSettings(**settings)
    whole_run = begin_run(str(tmp_path / "whole"), network, [read_node(node) for node in unit.nodes], asked,
                          images=None, about={})  # fmt: skip
    counts = []
    torch.set_num_threads(1)
    try:
        for one in (whole_run, run):
            Counted.gradients = 0
            sample_here(one, UnitSampler(network, asked, None, torch.device("cpu")), lambda _: None)
            counts.append(Counted.gradients)
    finally:
        torch.set_num_threads(threads)
    assert json.loads((folder / "run.json").read_text())["request"] == whole_run.request["request"]
    assert run.samples(unit).equals(whole_run.samples(unit))
    assert counts[1] == counts[0] - made - 4 * 8  # where the chains start is evaluated by the first alone
    assert np.array(run.samples(unit)["trajectories"]).tolist() == [160] * 4 * 8 * 4
