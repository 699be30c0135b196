"""How far a run is, read from what its driver wrote, whichever raygen the driver was."""

import json
import os
import subprocess
import sys

import pytest

from raygen.runs import FarmReport, StatusWriter, read_status
from raygen.store import Run, Unit

PROGRAM = """
import sys
from raygen.runs import read_status
from raygen.store import Run
status = read_status(Run.open(sys.argv[1]))
heavy = {"torch", "ray", "pyarrow", "numpy"} & set(sys.modules)
print(status.units, status.done, sorted(heavy))
"""


@pytest.fixture
def run(tmp_path):
    units = [Unit(f"conv1-0000{index}", "conv1", (f"conv1:{index}",), 2) for index in range(2)]
    return Run.begin(str(tmp_path), {}, units, about={})


def test_the_status_that_an_older_driver_wrote_is_read_in_todays_words(run, tmp_path):
    (tmp_path / "status.json").write_text(json.dumps({"at": 0.0, "in_hand": 3, "quiet": 1, "nodes": 7}))
    found = read_status(run)
    assert found.document["driver"] == {"at": 0.0, "in_flight": 3, "dead": 1, "nodes": 7}
    assert (found.units, found.done, found.alive) == (2, 0, False)


@pytest.mark.parametrize("content", ["", "[]", "{", '"text"'])
def test_a_status_that_cannot_be_read_is_empty_and_the_units_are_still_counted(run, tmp_path, content):
    (tmp_path / "status.json").write_text(content)
    found = read_status(run)
    assert (found.document["driver"], found.units, found.age) == ({}, 2, None)


def test_a_status_that_is_too_large_is_passed_over(run, tmp_path):
    (tmp_path / "status.json").touch()
    os.truncate(tmp_path / "status.json", 2**40)
    assert read_status(run).document["driver"] == {}


def test_a_local_runs_status_needs_neither_torch_nor_ray_nor_pyarrow(run, tmp_path):
    (tmp_path / "status.json").write_text(json.dumps({"units": 2, "at": 0.0}))
    (tmp_path / "samples" / "conv1").mkdir(parents=True)
    (tmp_path / "samples" / "conv1" / "conv1-00000.parquet").touch()
    (tmp_path / "samples" / "conv1" / "conv1-00001.parquet.0.tmp").touch()
    read = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True)
    assert read.stdout == "2 1 []\n"
    assert (read_status(run).units, read_status(run).done) == (2, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"at": 10**400},
        {"before": None},
        {"done": -1},
        {"running": ["x"]},
        {"set_aside": 3},
        {"seconds": "1"},
        [],
        3,
        None,
    ],
)
def test_a_status_that_no_driver_wrote_is_passed_over_with_a_warning(run, tmp_path, wrong, caplog):
    (tmp_path / "status.json").write_text(json.dumps(wrong))
    assert read_status(run).report == {}
    assert "status.json holds what no driver writes" in caplog.text or not isinstance(wrong, dict)


def report(units: int) -> FarmReport:
    return FarmReport(units, 0, {}, (), 1, {"conv1-00000": "why"}, 1.5, lost=1)


def test_a_status_in_which_a_digit_changed_is_passed_over_with_a_warning(run, tmp_path, caplog):
    StatusWriter(run.location, lambda report: None).write(report(2))
    written = (tmp_path / "status.json").read_text()
    assert read_status(run).units == read_status(run).report["units"] == 2
    (tmp_path / "status.json").write_text(written.replace('"units": 2', '"units": 1'))
    assert (read_status(run).units, read_status(run).report) == (2, {})
    assert "status.json is damaged, or that of another run" in caplog.text


def test_the_status_of_another_run_is_passed_over_with_a_warning(run, tmp_path, caplog):
    other = Run.begin(str(tmp_path / "other"), {"seed": 1}, [Unit("a-00000", "a", ("a:0",), 1)], about={})
    StatusWriter(other.location, lambda report: None).write(report(1))
    (tmp_path / "other/status.json").rename(tmp_path / "status.json")
    assert (read_status(run).units, read_status(run).report) == (2, {})
    assert "that of another run" in caplog.text


def test_a_report_from_a_clock_that_is_ahead_is_not_older_than_now(run, tmp_path):
    (tmp_path / "status.json").write_text(json.dumps({"units": 2, "at": 9e12, "seconds_left": 5.0}))
    assert read_status(run).age == 0
