"""One run at a time in a folder: held by a process that lives, and by no other."""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raygen.errors import StoreError
from raygen.storage import Location
from raygen.store import Holder, Lock, Pace, is_held, read_holder

REQUEST = "run.json"
QUICK = Pace(renew=0.2, stale=1.5, settle=0.1)

HOLD = """
import sys, time
from raygen.errors import StoreError
from raygen.storage import Location
from raygen.store import Lock, Pace
try:
    with Lock(Location.of(sys.argv[1]), "run.json", pace=Pace(renew=0.2, stale=1.5, settle=0.1)) as lock:
        print("held", flush=True)
        for _ in range(int(sys.argv[2])):
            time.sleep(0.05)
            lock.check()
except StoreError as error:
    sys.exit(str(error))
"""


def hold(folder: Path, looks: int = 2000) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(looks)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def held(process: "subprocess.Popen[str]") -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "held\n"


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lock(folder: Path, pace: Pace = QUICK) -> Lock:
    return Lock(Location.of(str(folder)), REQUEST, pace=pace)


def write(folder: Path, **changes: object) -> None:
    document = json.loads(Holder.of_this_process().write())
    (folder / "lock.json").write_text(json.dumps(document | changes))


def test_a_second_process_is_refused_in_one_line_that_names_the_first(tmp_path):
    first = hold(tmp_path)
    try:
        assert held(first)
        second = hold(tmp_path)
        _, said = second.communicate(timeout=60)
        assert second.returncode == 1
        assert len(said.splitlines()) == 1
        assert f"{tmp_path}: another raygen works in it, process {first.pid} on " in said
        assert "let it finish or end it" in said
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()


def test_a_killed_holder_is_replaced_at_once(tmp_path):
    first = hold(tmp_path)
    assert held(first)
    first.kill()
    first.communicate()
    assert (tmp_path / "lock.json").exists()
    assert not is_held(Location.of(str(tmp_path)))
    begun = time.monotonic()
    with lock(tmp_path, Pace(renew=300, stale=3600)):  # had it to wait for either, the test would not end
        assert time.monotonic() - begun < 60
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_whose_parent_has_not_noticed_is_replaced_too(tmp_path):
    first = hold(tmp_path)
    try:
        assert held(first)
        first.kill()
        until(lambda: Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        with lock(tmp_path, Pace(renew=300, stale=3600)):
            pass
    finally:
        first.communicate()


def test_another_process_with_the_number_of_the_dead_one_holds_nothing(tmp_path):
    write(tmp_path, began="1")
    with lock(tmp_path, Pace(renew=300, stale=3600)):
        pass


def test_a_holder_that_was_stopped_for_long_loses_the_folder_and_says_so(tmp_path):
    first = hold(tmp_path)
    try:
        assert held(first)
        os.kill(first.pid, signal.SIGSTOP)
        before = read_holder(Location.of(str(tmp_path)))
        time.sleep(QUICK.stale + 0.3)
        second = hold(tmp_path)
        assert held(second)
        assert read_holder(Location.of(str(tmp_path))) != before
        os.kill(first.pid, signal.SIGCONT)
        _, said = first.communicate(timeout=60)
        assert first.returncode == 1
        assert f"this process has lost the folder to process {second.pid} on " in said
        assert len(said.splitlines()) == 1
        assert second.poll() is None
        after = read_holder(Location.of(str(tmp_path)))
        assert after is not None and after.pid == second.pid, (
            "the end of the process that lost the folder leaves the new holder's lock"
        )
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_a_holder_that_was_stopped_and_not_replaced_goes_on(tmp_path):
    first = hold(tmp_path, 60)
    assert held(first)
    os.kill(first.pid, signal.SIGSTOP)
    time.sleep(QUICK.stale + 0.3)
    os.kill(first.pid, signal.SIGCONT)
    _, said = first.communicate(timeout=60)
    assert (first.returncode, said) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_another_machines_holder_is_replaced_when_it_is_stale_and_not_before(tmp_path):
    write(tmp_path, system="elsewhere", host="elsewhere", pid=7)
    with pytest.raises(StoreError, match=r"process 7 on elsewhere, since \d{4}-\d\d-\d\d"), lock(tmp_path):
        pass
    write(tmp_path, system="elsewhere", renewed=time.time() - QUICK.stale - 0.1)
    with lock(tmp_path):
        pass


def test_another_machine_whose_clock_is_behind_keeps_what_it_renews(tmp_path):
    end = threading.Event()

    def renew() -> None:
        count = 0.0
        while not end.wait(0.05):
            count += 0.1
            document = json.loads(Holder.of_this_process().write()) | {"system": "elsewhere", "renewed": 1e9 + count}
            (tmp_path / "lock.json.00.tmp").write_text(json.dumps(document))
            (tmp_path / "lock.json.00.tmp").replace(tmp_path / "lock.json")

    (tmp_path / REQUEST).write_text("{}")
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        until((tmp_path / "lock.json").exists)
        with pytest.raises(StoreError, match="another raygen works in it"), lock(tmp_path):
            pass
    finally:
        end.set()
        thread.join()


def test_of_many_that_come_at_once_one_gets_in(tmp_path):
    write(tmp_path, began="1")  # a dead one's, which they all see
    processes = [hold(tmp_path, 60) for _ in range(5)]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in processes]
    entered = [out for out, _, status in ended if status == 0]
    # One that came late may find the folder free again.
    assert len(entered) >= 1
    assert all("another raygen works in it" in err for _, err, status in ended if status)
    assert list(tmp_path.iterdir()) == []


def test_looking_and_taking_are_one_step_on_a_local_disk(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    other = hold(tmp_path)
    try:
        assert other.stdout is not None
        # While another one looks, it must not: were it free to, it would be in long before this.
        assert select.select([other.stdout], [], [], 5.0)[0] == []
        assert not (tmp_path / "lock.json").exists()
        os.close(descriptor)
        assert held(other)
    finally:
        other.kill()
        other.communicate()


def test_two_at_a_time_are_never_inside(tmp_path):
    inside, most, tally = [0], [0], threading.Lock()

    def work() -> None:
        for _ in range(20):
            try:
                with lock(tmp_path):
                    with tally:
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                    time.sleep(0.002)
                    with tally:
                        inside[0] -= 1
            except StoreError:
                time.sleep(0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1


def test_a_lock_that_somebody_removes_is_noticed(tmp_path):
    with lock(tmp_path) as mine:
        mine.check()
        (tmp_path / "lock.json").unlink()
        with pytest.raises(StoreError, match=r"lost the folder since lock\.json was removed"):
            until(lambda: mine.check() is not None)


def test_it_is_released_whatever_happens(tmp_path):
    with pytest.raises(KeyboardInterrupt), lock(tmp_path):
        assert is_held(Location.of(str(tmp_path)))
        raise KeyboardInterrupt
    assert not is_held(Location.of(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_comes_as_soon_as_it_is_taken_leaves_nothing_behind(tmp_path, monkeypatch):
    create = Location.create

    class Stopped(BaseException):
        pass

    def stop(number, frame):
        raise Stopped

    def create_and_be_stopped(self, *given, **named):
        create(self, *given, **named)
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        monkeypatch.setattr(Location, "create", create_and_be_stopped)
        with pytest.raises(Stopped), lock(tmp_path / "run"):
            pytest.fail("it was stopped on its way in")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_not_there_is_not_there_afterwards_unless_it_holds_something(tmp_path):
    with lock(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()
    with lock(tmp_path / "new"):
        (tmp_path / "new/run.json").write_text("{}")
    assert (tmp_path / "new/run.json").exists()


def test_a_folder_with_other_files_is_not_even_locked(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    before = tmp_path.stat().st_mtime_ns
    with pytest.raises(StoreError, match=r"thesis\.tex, but no run\.json"), lock(tmp_path):
        pass
    assert tmp_path.stat().st_mtime_ns == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff"])
def test_a_torn_lock_holds_nothing(tmp_path, content):
    (tmp_path / "lock.json").write_bytes(content)
    with lock(tmp_path):
        assert is_held(Location.of(str(tmp_path)))


@pytest.mark.parametrize(
    "changes",
    [
        {"renewed": float("inf")},
        {"renewed": float("nan")},
        {"renewed": 1e300},
        {"renewed": -1e300},
        {"renewed": "1e400"},
        {"since": 1e300},
        {"since": float("nan")},
        {"since": -5},
        {"pid": 10**400},
        {"pid": -1},
        {"pid": 0},
        {"pid": float("inf")},
    ],
    ids=str,
)
def test_a_lock_without_sane_numbers_holds_nothing(tmp_path, changes):
    write(tmp_path, system="elsewhere", **changes)
    assert read_holder(Location.of(str(tmp_path))) is None
    with lock(tmp_path, Pace(renew=300, stale=3600)):
        pass


def test_a_lock_that_is_nested_without_end_holds_nothing(tmp_path):
    (tmp_path / "lock.json").write_text("[" * 100_000)
    with lock(tmp_path, Pace(renew=300, stale=3600)):
        pass


@pytest.mark.parametrize("ahead", [30.0, 3600.0, 1e9])
def test_a_dead_holder_whose_clock_was_ahead_is_replaced_once_nothing_is_seen_of_it(tmp_path, ahead):
    now = time.time()
    write(tmp_path, system="elsewhere", since=now + ahead, renewed=now + ahead)
    begun = time.monotonic()
    with lock(tmp_path):
        assert QUICK.stale <= time.monotonic() - begun < 60
    assert ahead < 60 or not is_held(Location.of(str(tmp_path)))


@pytest.mark.parametrize("clock", [1e9, 4e9])
def test_a_live_holder_is_seen_to_renew_whatever_its_clock_says(tmp_path, clock):
    end = threading.Event()

    def renew() -> None:
        count = 0.0
        while not end.wait(0.2):
            count += 0.1
            document = json.loads(Holder.of_this_process().write()) | {"system": "elsewhere", "renewed": clock + count}
            (tmp_path / "lock.json.00.tmp").write_text(json.dumps(document))
            (tmp_path / "lock.json.00.tmp").replace(tmp_path / "lock.json")

    (tmp_path / REQUEST).write_text("{}")
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        until((tmp_path / "lock.json").exists)
        with pytest.raises(StoreError, match="another raygen works in it"), lock(tmp_path):
            pass
    finally:
        end.set()
        thread.join()
