"""A run looked at from another terminal, verified and mended, planned beforehand, and never worked on by two."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from committed import committed

from raygen.cli.display import Display
from raygen.cli.inspection import show_status
from raygen.runs import RunStatus
from raygen.store import Run

Call = Callable[..., Any]
TINY = ("--chains", "2", "--draws", "2", "--thin", "1", "--warm-up", "2", "--steps", "1", "--batch", "4")
SAMPLE = ("sample", "--nodes", "conv1:0-7", "--weights", "random", "--local", *TINY, "--out", "run")
# Hours of work: no machine is so quick that it ends before it is stopped.
LONG = ("--chains", "2", "--draws", "1000", "--thin", "100000", "--warm-up", "2", "--steps", "1", "--batch", "4")


def samples(folder: str | Path) -> dict[str, str]:
    run = Run.open(str(folder))
    # As text a NaN is itself.
    return {unit.name: str(run.samples(unit).to_pylist()) for unit in run.plan}


def until(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_torn_files_are_found_removed_and_made_again_bit_for_bit(call: Call) -> None:
    assert call(*SAMPLE).status == 0
    before = samples("run")
    assert call("verify", "run").status == 0
    units = Run.open("run").plan
    first, second, third, fourth = (Path("run", unit.path) for unit in units)
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    second.write_bytes(b"")
    data = bytearray(third.read_bytes())
    for index in range(len(data) // 2, len(data) // 2 + 300):  # one byte alone may mean nothing
        data[index] ^= 0x40
    third.write_bytes(bytes(data))
    scrap = first.with_name(first.name + ".0a.tmp")
    scrap.write_bytes(b"PAR1")
    untouched = fourth.read_bytes()

    said = call("verify", "run")
    assert said.status == 3
    assert "torn: 3" in said.out and units[0].path in said.out and "interrupted writes" in said.out
    assert "nothing is changed; --mend removes" in said.out
    assert said.err.splitlines() == ["raygen: run: 3 files torn, 0 missing; remove what is torn with --mend"]
    assert scrap.exists() and first.exists()
    document = json.loads(call("verify", "--json", "--out", "run").out)
    assert set(document["torn"]) == {unit.path for unit in units[:3]}
    assert (document["is_whole"], document["whole"], document["mended"]) == (False, 1, False)

    said = call("verify", "run", "--mend")
    assert said.status == 3
    assert "removed: 4 files" in said.out
    assert "run the same command again" in said.err
    assert not scrap.exists() and not first.exists() and fourth.read_bytes() == untouched
    assert "1 of 4 units were there already" in call(*SAMPLE).out
    assert call("verify", "run").status == 0
    assert samples("run") == before
    assert fourth.read_bytes() == untouched


def test_a_run_that_is_done_says_so_and_an_unfinished_one_who_left_it(call: Call) -> None:
    assert call(*SAMPLE).status == 0
    said = call("status", "run")
    assert said.status == 0
    assert "done: 4 of 4 units (100 %)" in said.out and "driver: none; all is done" in said.out
    Path("run", Run.open("run").plan[0].path).unlink()
    said = call("status", "--out", "run")
    assert "done: 3 of 4 units (75 %)" in said.out
    assert "driver: none, last report" in said.out
    document = json.loads(call("status", "run", "--json").out)
    assert (document["done"], document["units"], document["alive"]) == (3, 4, False)
    assert document["driver"]["samples"] == 32


def test_a_gallery_takes_its_run_as_status_does(call: Call) -> None:
    assert call(*SAMPLE).status == 0
    given, named = call("gallery", "run"), call("gallery", "--out", "run")
    assert (given.status, named.status) == (0, 0)
    assert given.out == named.out
    assert "in 1 layer\n" in given.out


@pytest.mark.parametrize(("rate", "shown"), [(0.0123456, "0.0123"), (12.24, "12.2"), (999.4, "999"), (3096.8, "3,097")])
def test_a_rate_is_written_without_an_exponent(rate: float, shown: str) -> None:
    report = {
        "seconds": 10.0, "samples": 1, "done": 1, "before": 0, "gradients": 10 * rate, "converged": 0, "nodes": 1,
    }  # fmt: skip
    stream = io.StringIO()
    show_status(Display(stream), RunStatus(units=1, done=1, alive=False, holder=None, report=report, age=1.0))
    assert f" {shown} gradients/s;" in stream.getvalue()


def test_status_verify_and_gallery_refuse_what_is_no_run(call: Call) -> None:
    for command in ("status", "verify", "gallery"):
        said = call(command, "nowhere")
        assert (said.status, len(said.err.splitlines())) == (2, 1)
        assert "there is no run.json" in said.err
        assert call(command).status == 2
        said = call(command, "one", "--out", "other")
        assert "give one of them" in said.err


def test_two_at_once_are_refused_and_the_first_is_seen_at_work(call: Call, launcher: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ("sample", "--nodes", "conv1:0-7", "--weights", "random", "--local", *LONG, "--out", str(folder))
    process = launcher.raygen(*command)
    until((folder / "status.json").exists, process)
    said = call(*command)
    assert said.status == 2
    assert said.err.splitlines()[0].startswith(f"raygen: {folder}: another raygen works in it, process ")
    said = call("verify", folder, "--mend")
    assert said.status == 2, "nothing is removed beneath a driver"
    document = json.loads(call("status", folder, "--json").out)
    assert document["alive"] and document["driver"]["in_flight"] <= 1
    assert "driver: process " in call("status", folder).out

    launcher.end()
    process.communicate()
    assert (folder / "lock.json").exists()
    assert "driver: dead (process " in call("status", folder).out
    again = launcher.raygen(*command)
    until(lambda: json.loads(call("status", folder, "--json").out)["alive"], again)
    again.send_signal(signal.SIGTERM)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 143
    assert not (folder / "lock.json").exists(), "a driver that is asked to stop releases the folder"


def test_plan_begins_the_run_and_samples_nothing(call: Call) -> None:
    said = call(*SAMPLE, "--plan", "--actors", "3")
    assert said.status == 0
    assert "on 3 actors" in said.out and "core-hours" in said.out
    run = Run.open("run")
    assert (len(run.plan), committed(run)) == (4, set())
    assert not Path("run/lock.json").exists()
    lines = [json.loads(line) for line in call(*SAMPLE, "--plan", "--json").out.splitlines()]
    assert [line["layer"] for line in lines] == ["conv1", "all"]
    total = lines[-1]
    assert (total["units"], total["nodes"], total["chains"]) == (4, 8, 16)
    assert total["most_gradients"] == 16 * (2 + 2) * 1 + 8 * 16
    assert total["seconds"] > 0 and total["memory"] > 1e7
    made = call(*SAMPLE)
    assert "64 gradients" in made.out, "those that look for dead nodes are not the chains'"
    assert json.loads(call(*SAMPLE, "--plan", "--json").out.splitlines()[-1])["done"] == 4
    assert call(*SAMPLE, "--json").status == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=44k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_run_on_a_full_disk_ends_in_one_line_and_goes_on_once_there_is_room(call: Call, small_disk: Path) -> None:
    command = (*SAMPLE[:-1], str(small_disk / "run"))
    assert call(*SAMPLE).status == 0
    said = call(*command)
    assert said.status == 2
    assert len(said.err.splitlines()) == 1
    assert "cannot be written" in said.err and "with room left" in said.err
    kept = committed(Run.open(str(small_disk / "run")))
    assert 0 < len(kept) < 4
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert f"{len(kept)} of 4 units were there already" in call(*command).out
    assert call("verify", small_disk / "run").status == 0
    assert samples(small_disk / "run") == samples("run")


def test_a_driver_that_was_stopped_for_long_stops_when_another_has_taken_over(tmp_path: Path, launcher: Any) -> None:
    folder = tmp_path / "run"
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys\n"
        "from raygen.store import lock\n"
        "quick = lock.Pace(renew=0.2, stale=2.0)\n"
        "lock.Pace = lambda: quick\n"
        "from raygen.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = ("sample", "--nodes", "conv1:0-7", "--weights", "random", "--local", *LONG, "--out", str(folder))
    first = launcher.start(sys.executable, script, *command)
    until((folder / "status.json").exists, first)
    driver = json.loads((folder / "lock.json").read_text())["pid"]
    os.kill(driver, signal.SIGSTOP)
    time.sleep(2.5)
    second = launcher.start(sys.executable, script, *command)
    until(lambda: json.loads((folder / "lock.json").read_text())["pid"] != driver, second)
    os.kill(driver, signal.SIGCONT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 2
    assert len(said.splitlines()) == 1 and "this process has lost the folder to process" in said
    assert second.poll() is None
    launcher.end()
    second.communicate()
