"""A run: begun, interrupted, taken up again, and never lost."""

import math
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from committed import committed

from raygen.data import ImageSet
from raygen.errors import StoreError
from raygen.networks import NetworkSettings, list_layers, load_network, parse_nodes, wrap_network
from raygen.runs import FarmReport, StateKeeper, Totals, UnitReport, begin_run, sample_here, sample_unit
from raygen.sampling import SamplingSettings, UnitProgress, UnitSampler
from raygen.sampling.progress import Reporter
from raygen.store import Run
from raygen.store.states import UnitState

LENET = load_network(NetworkSettings(weights="random"))
FEW = SamplingSettings(steps=2, warm_up=4, chains=2, draws=2, thin=2, sigma=1.0, tilt=3.0, batch=4)
NODES = "conv1:0-2 ip2:1-3 conv1:0@3,4"


def shades(value):
    images = torch.full((4, 1, 28, 28), value, dtype=torch.uint8)
    return ImageSet("shades", images, torch.zeros(4, dtype=torch.int64), ("one",))


def renormalised(network):
    return replace(network, mean=(0.5,))


class StoppedError(Exception):
    pass


def begin(folder, *, nodes=NODES, settings=FEW, network=LENET, **options):
    asked = parse_nodes(nodes, network, list_layers(network))
    return begin_run(str(folder), network, asked, settings, **{"images": None, "about": {}, **options})


def sampler(network=LENET, settings=FEW):
    return UnitSampler(network, settings, None, torch.device("cpu"))


def tables(run):
    return {unit.name: run.samples(unit) for unit in run.plan}


def ignore(report):
    pass


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = begin(tmp_path_factory.mktemp("run") / "whole")
    report = sample_here(run, sampler(), ignore)
    return run, report


def test_a_run_holds_the_samples_of_every_node(undisturbed):
    run, report = undisturbed
    assert committed(run) == {unit.name for unit in run.plan} and len(run.plan) == 5
    assert {(table["layer"][0].as_py(), table.num_rows) for table in tables(run).values()} == {
        ("conv1", 8), ("conv1", 4), ("ip2", 8), ("ip2", 4)}  # fmt: skip
    nodes = [node for table in tables(run).values() for node in table["node"].unique().to_pylist()]
    assert nodes == ["conv1:0", "conv1:1", "conv1:2", "ip2:1", "ip2:2", "ip2:3", "conv1:0@3,4"]
    assert (report.done, report.before, report.fraction, report.running) == (5, 0, 1.0, ())


def test_a_units_report_counts_what_was_written(undisturbed):
    run, _ = undisturbed
    first = sample_unit(run, sampler(), run.plan[0])
    assert (first.unit, first.layer, first.samples, first.nodes) == ("conv1-00000", "conv1", 8, 2)
    rows = run.samples(run.plan[0]).to_pylist()
    assert first.gradients == sum(row["gradients"] for row in rows if row["draw"] == 0)
    table = run.samples(run.plan[0])
    rates = table.filter([draw == 0 for draw in table["draw"].to_pylist()])["acceptance_rate"].to_pylist()
    assert first.acceptance == pytest.approx(sum(rates) / len(rates))
    assert first.converged == 0


@pytest.mark.parametrize("trajectories", [0, 5], ids=["between units", "within a unit"])
def test_a_run_stopped_and_started_again_ends_with_the_same_samples(tmp_path, undisturbed, trajectories):
    seen = []

    def stop(report):
        if report.done == 2:
            seen.append(report)
        if len(seen) > trajectories:
            raise StoppedError

    with pytest.raises(StoppedError):
        sample_here(begin(tmp_path / "run"), sampler(), stop)
    run = begin(tmp_path / "run")
    assert len(committed(run)) == 2
    before = {name: run.location.read(name) for name in ("run.json", "plan.parquet", run.plan[0].path)}
    report = sample_here(run, sampler(), ignore)
    assert (report.before, report.made.units, report.done) == (2, 3, 5)
    expected = tables(undisturbed[0])
    assert all(table.equals(expected[name]) for name, table in tables(run).items())
    assert before == {name: run.location.read(name) for name in before}


@pytest.mark.parametrize("trajectories", [1, 3, 7])
def test_a_unit_that_is_asked_to_stop_leaves_its_last_state_and_goes_on_there(tmp_path, undisturbed, trajectories):
    run, seen = begin(tmp_path / "run"), []
    unit = run.plan[0]

    def stop(progress):
        seen.append(progress)
        if len(seen) > trajectories:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_unit(run, sampler(), unit, stop, save_every=1e6)  # nothing is saved by the clock
    assert run.location.names("state") == ["conv1-00000.safetensors"] and not committed(run)
    left = []
    sample_unit(run, sampler(), unit, left.append)
    whole = []
    sample_unit(begin(tmp_path / "whole"), sampler(), unit, whole.append)
    assert len(left) == len(whole) - trajectories
    assert run.samples(unit).equals(undisturbed[0].samples(unit))
    assert run.location.names("state") == []


def test_a_unit_that_is_asked_to_stop_leaves_nothing_where_no_states_are_wanted(tmp_path):
    run = begin(tmp_path / "run")

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_unit(run, sampler(), run.plan[0], stop, save_every=0)
    assert run.location.names("state") == []


def test_a_units_own_failure_leaves_no_state(tmp_path):
    run, seen = begin(tmp_path / "run"), []

    def fail(progress):
        seen.append(progress)
        if len(seen) > 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        sample_unit(run, sampler(), run.plan[0], fail, save_every=1e6)
    assert run.location.names("state") == []


def test_a_units_last_state_is_saved_for_another_thread_while_the_unit_goes_on(tmp_path, undisturbed):
    run, counted = begin(tmp_path / "run"), []
    unit = run.plan[0]
    keeper = StateKeeper(run, unit, 1e6)
    asked, answered, refusals = threading.Event(), threading.Event(), []

    def save():
        asked.wait(60)
        refusals.extend([keeper.save_last(), keeper.save_last()])
        answered.set()

    other = threading.Thread(target=save)
    other.start()

    def ask_after_five(progress):
        counted.append(progress)
        if len(counted) == 5:
            asked.set()
            assert answered.wait(60)
            shutil.copytree(tmp_path / "run", tmp_path / "left")

    sample_unit(run, sampler(), unit, ask_after_five, keeper=keeper)
    other.join()
    assert refusals == ["", ""]
    assert run.samples(unit).equals(undisturbed[0].samples(unit)) and run.location.names("state") == []
    left, rest = begin(tmp_path / "left"), []
    sample_unit(left, sampler(), unit, rest.append)
    assert len(rest) == len(counted) - 4  # the fifth was made, and is told before it is kept
    assert left.samples(unit).equals(undisturbed[0].samples(unit))


def test_a_state_that_is_saved_while_another_process_commits_the_unit_is_not_left_behind(tmp_path, monkeypatch):
    run = begin(tmp_path / "run")
    unit, written = run.plan[0], []
    write = UnitState.write

    def write_late(self, arrays):
        if not written:
            sample_unit(run, sampler(), unit, save_every=0)  # the other one, which commits
        written.append(write(self, arrays))

    monkeypatch.setattr(UnitState, "write", write_late)

    def stop(progress):
        if progress.fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_unit(run, sampler(), unit, stop, save_every=1e6)
    assert len(written) == 1 and committed(run) == {unit.name}
    assert run.location.names("state") == []


def test_a_storage_that_refuses_the_last_state_is_told_and_costs_no_sample(tmp_path, caplog):
    run, said = begin(tmp_path / "run"), []
    unit = run.plan[0]
    (tmp_path / "run" / "state").write_text("a file where the folder should be")
    keeper = StateKeeper(run, unit, 1e6)
    assert keeper.save_last() == ""  # nothing is there to be saved
    sample_unit(run, sampler(), unit, lambda progress: said.append(keeper.save_last()), keeper=keeper)
    assert said[0] == "" and "cannot be written" in said[1]
    assert committed(run) == {unit.name} and "is not saved" in caplog.text


def test_the_order_of_the_units_decides_nothing(tmp_path, undisturbed):
    run, one = begin(tmp_path / "run"), sampler()
    for unit in reversed(run.plan):
        sample_unit(run, one, unit)
    expected = tables(undisturbed[0])
    assert all(table.equals(expected[name]) for name, table in tables(run).items())


def test_a_finished_run_is_not_sampled_again(undisturbed):
    run, _ = undisturbed
    stamps = {unit.path: Path(run.location.root, unit.path).stat().st_mtime_ns
              for unit in run.plan}  # fmt: skip
    report = sample_here(run, sampler(), ignore)
    assert (report.before, report.layers, report.fraction) == (5, {}, 1.0)
    for path, stamp in stamps.items():
        assert Path(run.location.root, path).stat().st_mtime_ns == stamp


def test_progress_never_falls_and_ends_at_the_whole(tmp_path):
    fractions, seen = [], []
    sample_here(
        begin(tmp_path / "run"), sampler(), lambda report: (fractions.append(report.fraction), seen.append(report))
    )
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1)
    assert len(fractions) == 5 * (8 + 1)
    assert all(report.seconds_left is not None and report.seconds_left >= 0 for report in seen)
    assert all(0 <= report.acceptance <= 1 for report in seen)


@pytest.mark.parametrize(("change", "named"), [
    ({"settings": FEW.model_copy(update={"seed": 8})}, "settings.seed is 0, now 8"),
    ({"settings": FEW.model_copy(update={"step_size": 0.5})}, "settings.step_size is null, now 0.5"),
    ({"nodes": "conv1:0-3"}, "nodes is"),
    ({"network": load_network(NetworkSettings(weights="random"), seed=1)}, "weights_hash is"),
    ({"images": shades(3)}, 'data is null, now "shades"'),
    ({"network": renormalised(LENET)}, "mean is [0.0], now [0.5]"),
    ({"profile": {"ip2": {"tilt": 2.0}}}, "profile.ip2 is null"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_another_request_in_the_same_place_is_refused_by_name(tmp_path, change, named):
    run = begin(tmp_path / "run")
    before = run.location.read("run.json")
    with pytest.raises(StoreError, match="another run") as caught:
        begin(tmp_path / "run", **change)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert run.location.read("run.json") == before


def test_other_images_of_the_same_name_are_another_run(tmp_path):
    begin(tmp_path / "run", images=shades(3))
    begin(tmp_path / "run", images=shades(3))
    with pytest.raises(StoreError, match="data_hash is"):
        begin(tmp_path / "run", images=shades(4))


def test_the_same_request_under_other_versions_is_the_same_run(tmp_path):
    first, second = (begin(tmp_path / "run", about={"torch": version}) for version in "12")
    assert first.plan[:] == second.plan[:]


def test_the_request_says_all_that_decides_the_samples(tmp_path):
    request = Run.open(begin(tmp_path / "run").location.text).request["request"]
    assert set(request["settings"]) == set(SamplingSettings.model_fields) - {"reference_file"}  # its hash instead
    assert request["nodes"] == NODES and request["weights_hash"] == LENET.weights_hash


def test_a_constant_node_is_told_of_and_costs_no_unit(tmp_path):
    network = wrap_network(LENET.module, name="lenet", input_shape=(1, 28, 28), class_names=tuple("0123456789"))
    with torch.no_grad():
        network.module.ip2.weight[3] = 0.0
    settings = FEW.model_copy(update={"tilt": None, "contrast": 1.0})
    run = begin(tmp_path / "run", network=network, settings=settings)
    report = sample_here(run, sampler(network, settings), ignore)
    assert not report.set_aside and report.made.dead == 1
    assert report.acceptance > 0


@pytest.mark.parametrize("weight", [math.nan])
def test_a_node_that_cannot_be_sampled_sets_its_unit_aside_with_a_line_and_loses_nothing(tmp_path, weight):
    network = wrap_network(LENET.module, name="lenet", input_shape=(1, 28, 28), class_names=tuple("0123456789"))
    with torch.no_grad():
        network.module.ip2.weight[3] = weight
    settings = FEW.model_copy(update={"tilt": None, "contrast": 1.0})
    run = begin(tmp_path / "run", network=network, settings=settings)
    report = sample_here(run, sampler(network, settings), ignore)
    (unit,) = report.set_aside
    assert "node ip2:3" in report.set_aside[unit] and "\n" not in report.set_aside[unit]
    assert committed(run) == {each.name for each in run.plan} - {unit}
    assert all(run.samples(unit).num_rows > 0 for unit in run.plan if unit.name in committed(run))
    names = run.location.names("samples", recursive=True)
    assert len(names) == len(run.plan) - 1 and not any("tmp" in name for name in names)


# ---- reports


def unit_report(acceptance):
    return UnitReport("u", "conv1", 8, 100, acceptance, 2, 1, 3.0)


def test_a_report_counts_units_in_hand_in_part():
    layers = {"conv1": Totals.of(unit_report(0.5))}
    report = FarmReport(8, 2, layers, (UnitProgress(0.5, 0.9), UnitProgress(0.25, 0.1)), 2, {}, 70.0)
    assert report.done == 3 and report.fraction == pytest.approx(3.75 / 8)
    # 1.75 units in 70 s leave 4.25 units, or 170 s.
    assert report.seconds_left == pytest.approx(170)
    assert report.acceptance == 0.5


def test_what_is_left_is_never_less_than_a_unit_in_hand_still_needs():
    layers = {"conv1": Totals.of(unit_report(0.5))}
    running = (UnitProgress(0.5, 0.9, 300.0), UnitProgress(0.25, 0.1, 20.0), UnitProgress(0.0, math.nan))
    assert FarmReport(8, 2, layers, running, 3, {}, 70.0).seconds_left == 300
    # 1.25 units in 70 s leave 4.75 units, or 266 s.
    assert FarmReport(8, 2, layers, running[1:], 3, {}, 70.0).seconds_left == pytest.approx(266)


@pytest.mark.parametrize("start", [0.0, 0.6])
def test_a_unit_tells_what_it_needs_at_its_own_pace_wherever_it_was_taken_up(start):
    times, reports = iter([10.0, 12.0, 20.0]), []
    reporter = Reporter(1, reports.append, clock=lambda: next(times))
    for fraction in (start, start + 0.1, start + 0.3):
        reporter.chains(fraction, 0.8)
    assert math.isnan(reports[0].seconds_left)
    assert [each.seconds_left for each in reports[1:]] == pytest.approx([20 * (0.9 - start), 10 / 0.3 * (0.7 - start)])


def test_a_report_before_anything_is_known():
    report = FarmReport(8, 2, {}, (UnitProgress(0.0, math.nan),), 1, {}, 5.0)
    assert report.seconds_left is None and report.acceptance is None
    assert FarmReport(8, 0, {}, (UnitProgress(0.1, 0.75),), 1, {}, 5.0).acceptance == 0.75
    assert FarmReport(0, 0, {}, (), 0, {}, 0.0).fraction == 0


def test_totals_add_up_and_units_without_a_rate_do_not_count_in_the_mean():
    parts = [Totals.of(unit_report(rate)) for rate in (0.25, math.nan, 0.75)]
    total = parts[0] + parts[1] + parts[2]
    assert total.acceptance == 0.5 and Totals().acceptance is None
    assert (total.units, total.samples, total.gradients, total.nodes, total.converged) == (3, 24, 300, 6, 3)
    report = FarmReport(9, 2, {"conv1": parts[0] + parts[1], "ip2": parts[2]}, (), 0, {}, 1.0)
    assert report.made == total and report.done == 5


def test_a_runs_report_has_the_totals_of_each_layer(undisturbed):
    run, report = undisturbed
    rows = tables(run)
    assert list(report.layers) == ["conv1", "ip2"]
    for layer, total in report.layers.items():
        mine = [table for table in rows.values() if table["layer"][0].as_py() == layer]
        assert total.units == len(mine) and total.samples == sum(table.num_rows for table in mine)
        assert total.nodes == len({node for table in mine for node in table["node"].to_pylist()})
