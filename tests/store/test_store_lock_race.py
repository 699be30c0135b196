"""Many real processes that want a folder in the same instant: one gets it, and no test here depends on time."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from failing_storage import Moody, failing_location

from raygen.errors import StoreError
from raygen.storage import Location
from raygen.store import Holder, Lock, Pace, read_holder

SLOW = Pace(renew=3000, stale=9000, settle=0.0)

RACE = """
import os, sys, time
from raygen.errors import StoreError
from raygen.storage import Location
from raygen.store import Lock, Pace

folder, count = sys.argv[1], int(sys.argv[2])
clock, sleep = time.monotonic, time.sleep
time.monotonic, time.sleep = lambda: 1e5 * clock(), lambda seconds: sleep(seconds / 1e5)  # hours of watching pass soon
(start, go), (told, tell), (end, finish) = os.pipe(), os.pipe(), os.pipe()
for _ in range(count):
    if os.fork():
        continue
    os.close(go), os.close(finish)
    os.read(start, 1)  # until the gate falls for all of them
    try:
        with Lock(Location.of(folder), "run.json", pace=Pace(renew=3000, stale=9000)):
            os.write(tell, b"+")
            os.read(end, 1)  # holds it until every other has answered
    except StoreError as error:
        os.write(tell, b"-" if "another raygen works in it" in str(error) else f"?{error}".encode())
    os._exit(0)
os.close(go), os.close(tell)
said = b""
while len(said) < count and (more := os.read(told, 4096)):
    said += more
os.close(finish)
for _ in range(count):
    os.wait()
print(said.decode())
"""
"""Processes that wait at a gate, then want the folder; each says whether it holds it."""

VISIT = """
import os, sys
from raygen.errors import StoreError
from raygen.storage import Location
from raygen.store import Lock, Pace

folder, witness, count, times = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
start, go = os.pipe()
told, tell = os.pipe()
for _ in range(count):
    if os.fork():
        continue
    os.close(go)
    os.read(start, 1)
    done = 0
    while done < times:
        try:
            with Lock(Location.of(folder), "run.json", pace=Pace(renew=3000, stale=9000)):
                try:
                    os.close(os.open(witness, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    os.write(tell, b"two are inside ")
                    os._exit(0)
                os.unlink(witness)
            done += 1
        except StoreError as error:
            if "another raygen works in it" not in str(error):
                os.write(tell, f"{error} ".encode())
                os._exit(0)
    os._exit(0)
os.close(go), os.close(tell)
said = b""
while more := os.read(told, 4096):
    said += more
for _ in range(count):
    os.wait()
print(said.decode())
"""
"""Processes that come and go; inside, each makes a file that nobody else may have made."""

PROCESSES = 12


def run(script: str, *given: object) -> str:
    done = subprocess.run([sys.executable, "-c", script, *map(str, given)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def one_of(count: int) -> list[str]:
    return sorted("+" + "-" * (count - 1))


@pytest.mark.parametrize("turn", range(5))
@pytest.mark.parametrize("there", [True, False], ids=["in a folder", "in a folder that is yet to be made"])
def test_of_many_that_begin_in_the_same_instant_one_holds_it(tmp_path, there, turn):
    folder = tmp_path if there else tmp_path / "new" / "run"
    assert sorted(run(RACE, folder, PROCESSES)) == one_of(PROCESSES)


def leave_dead_lock(folder: Path, **changes: object) -> None:
    document = json.loads(Holder.of_this_process().write())
    (folder / "lock.json").write_text(json.dumps(document | {"began": "1"} | changes))


@pytest.mark.parametrize("turn", range(5))
@pytest.mark.parametrize(
    "changes", [{}, {"system": "elsewhere", "renewed": 1.0}], ids=["a dead one's", "one that nobody renews"]
)
def test_of_many_that_take_over_a_stale_lock_at_once_one_holds_it(tmp_path, changes, turn):
    leave_dead_lock(tmp_path, **changes)
    assert sorted(run(RACE, tmp_path, PROCESSES)) == one_of(PROCESSES)
    assert list(tmp_path.iterdir()) == []


def test_two_are_never_inside_a_folder_that_comes_and_goes(tmp_path):
    assert run(VISIT, tmp_path / "run", tmp_path / "witness", 6, 40) == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


HOLD = """
import sys
from raygen.storage import Location
from raygen.store import Lock, Pace

with Lock(Location.of(sys.argv[1]), "run.json", pace=Pace(renew=3000, stale=9000, settle=0.0)):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_inside(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.stdin.close()


def before_writing(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once, between the look at the lock and the first write of it."""
    ready, left = Holder.of_this_process, [happens]

    def of_this_process() -> Holder:
        if left:
            left.pop()()
        return ready()

    monkeypatch.setattr(Holder, "of_this_process", of_this_process)


def test_a_folder_that_was_made_anew_under_the_one_that_comes_is_not_shared(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    mine = Lock(Location.of(str(folder)), "run.json", pace=SLOW)
    with ExitStack() as stack:

        def replace_folder() -> None:
            folder.rmdir()
            stack.enter_context(another_inside(folder))

        before_writing(monkeypatch, replace_folder)
        with pytest.raises(StoreError, match="another raygen works in it"), mine:
            pass
    assert not folder.exists()


@pytest.mark.parametrize("links", [True, False], ids=["that has links", "without links, which reads back"])
@pytest.mark.parametrize("dead", [False, True], ids=["free", "left by a dead one"])
def test_on_a_file_system_without_locks_one_of_two_is_refused(tmp_path, monkeypatch, dead, links):
    def refuse(*given: object) -> None:
        raise OSError(errno.ENOTSUP, "it cannot do that")

    monkeypatch.setattr(fcntl, "flock", refuse)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    if dead:
        leave_dead_lock(tmp_path)
    mine = Lock(Location.of(str(tmp_path)), "run.json", pace=SLOW)
    with ExitStack() as stack:
        before_writing(monkeypatch, lambda: stack.enter_context(another_inside(tmp_path)))
        with pytest.raises(StoreError, match="another raygen works in it"), mine:
            pass
        assert [path.name for path in tmp_path.iterdir()] == ["lock.json"]


class Meeting(Moody):
    """Storage without conditions, on which every lock is written before any of them is read back."""

    def __init__(self, parties: int) -> None:
        super().__init__(every=10**9)
        self.looked, self.wrote, self.parties = threading.Barrier(parties), threading.Barrier(parties), parties

    def move(self, source, target):
        self.looked.wait(60)
        super().move(source, target)
        self.wrote.wait(60)


@pytest.mark.parametrize("dead", [False, True], ids=["free", "left by a dead one"])
def test_without_conditions_who_is_in_the_object_holds_it_and_the_others_are_refused(tmp_path, dead):
    if dead:
        leave_dead_lock(tmp_path)
    parties = 6
    place = failing_location(Meeting(parties), tmp_path)
    entered, refused, answered = [], [], threading.Barrier(parties)

    def come() -> None:
        mine = Lock(place, "run.json", pace=SLOW)
        try:
            with mine:
                entered.append(mine)
                answered.wait(60)
        except StoreError as error:
            refused.append(str(error))
            answered.wait(60)

    threads = [threading.Thread(target=come) for _ in range(parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(entered), len(refused)) == (1, parties - 1)
    assert all("another raygen works in it" in said for said in refused)
    assert list(tmp_path.iterdir()) == []


class Late(Moody):
    """Storage without conditions, on which a write arrives only once it is let through."""

    def __init__(self) -> None:
        super().__init__(every=10**9)
        self.written, self.let_through = threading.Event(), threading.Event()

    def move(self, source, target):
        self.written.set()
        assert self.let_through.wait(60)
        super().move(source, target)


def test_without_conditions_the_earlier_of_two_stops_at_its_next_renewal(tmp_path):
    late = Late()
    slow = Lock(failing_location(late, tmp_path), "run.json", pace=SLOW)
    quick = Lock(failing_location(Moody(every=10**9), tmp_path), "run.json", pace=Pace(0.05, 9000, 0.0))
    thread = threading.Thread(target=slow.__enter__)
    thread.start()
    assert late.written.wait(60)  # it has looked, and found nobody
    with quick:
        quick.check()
        late.let_through.set()
        thread.join()
        with pytest.raises(StoreError, match="this process has lost the folder to process"):
            while True:
                quick.check()
                time.sleep(0.01)
        slow.check()
    found = read_holder(slow._location)
    assert found is not None and found.key == slow._me.key, "the one that was written over leaves the other's"
    slow.__exit__()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_written_though_the_answer_was_lost_is_ones_own(tmp_path):
    class Deaf(Moody):
        deaf = True

        def move(self, source, target):
            super().move(source, target)
            if self.deaf:
                self.deaf = False
                raise OSError(errno.EIO, "the storage went away")

    with Lock(failing_location(Deaf(every=10**9), tmp_path), "run.json", pace=SLOW) as mine:
        mine.check()
    assert list(tmp_path.iterdir()) == []
