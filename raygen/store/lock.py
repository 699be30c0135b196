"""One run at a time in a folder: a lease, renewed while it is held, that a dead holder does not keep.

The lease is a file, so that it works on any storage. On a local disk it is taken in one step. An object store has no
such step: there whoever wrote last holds it, and who wrote before sees that a moment later. What two holders at once
could do in that moment is the same work twice; every file is written whole, and by both alike.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from raygen.errors import StoreError
from raygen.storage import Location
from raygen.store.request import LOCK, refuse_strangers

_KINDS = {"key": str, "host": str, "system": str, "pid": int, "began": str, "since": float, "renewed": float}


@dataclass(frozen=True)
class Holder:
    """A process that holds a folder.

    Attributes:
        key: unique for each time that a folder is taken.
        host: name of its machine.
        system: tells whether a process number is of the same system: of one boot, and not of another container.
        pid: its process number.
        began: when the process began, in the system's own words; numbers are used again.
        since: when it took the folder, seconds since 1970 by its clock.
        renewed: when it last said that it is alive.
    """

    key: str
    host: str
    system: str
    pid: int
    began: str
    since: float
    renewed: float

    @classmethod
    def of_this_process(cls) -> Holder:
        """Return this process as a new holder."""
        now = time.time()
        return cls(os.urandom(8).hex(), socket.gethostname(), _system(), os.getpid(), _began(os.getpid()), now, now)

    @classmethod
    def read(cls, data: bytes) -> Holder | None:
        """Return what ``write`` wrote; None if it is something else, or torn."""
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            found: Mapping[str, Any] = json.loads(data)
            return cls(**{name: kind(found[name]) for name, kind in _KINDS.items()})
        return None

    def write(self) -> bytes:
        """Return it as a file."""
        return json.dumps(asdict(self), indent=2).encode()

    @property
    def is_dead(self) -> bool:
        """Whether it is known that the process is no more; of another machine's that cannot be known."""
        return self.system == _system() and _began(self.pid) != self.began

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Pace:
    """Seconds that a lease takes.

    Attributes:
        renew: from one renewal to the next.
        stale: without a renewal after which a holder counts as dead.
        settle: after which whoever wrote last sees itself; on storage without a step that excludes others.
    """

    renew: float = 10.0
    stale: float = 60.0
    settle: float = 1.0


class Lock:
    """A lease on a folder, a context: taken on entry, renewed by a thread, given back on exit.

    Args:
        location: of the folder.
        request: name of the file that says what the folder is: where there is none, strangers' files are refused.
        guests: names that may be in the folder before that file.
        pace: of its renewal.

    Raises:
        StoreError: on entry, if another process holds the folder, or it cannot be written.
    """

    def __init__(
        self, location: Location, request: str, *, guests: Collection[str] = (), pace: Pace | None = None
    ) -> None:
        self._location = location
        self._request = request
        self._guests = guests
        self._pace = pace or Pace()
        self._me = Holder.of_this_process()
        self._lost: StoreError | None = None
        self._made_folder = False
        self._renewing = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew_always, name="raygen-lock", daemon=True)

    def __enter__(self) -> Self:
        refuse_strangers(self._location, self._request, self._guests)
        self._made_folder = not self._location.exists("")
        try:
            self._take()
        except BaseException:
            # The file may be there already: a signal can come between any two steps.
            self.__exit__()
            raise
        return self

    def _take(self) -> None:
        with _alone(self._location):
            self._refuse_others()
            self._me = replace(Holder.of_this_process(), key=self._me.key)
            self._location.write(LOCK, self._me.write(), lasting=False)
        if not self._location.is_local:
            time.sleep(self._pace.settle)
            if (found := read_holder(self._location)) is not None and found.key != self._me.key:
                raise self._held_by(found)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        with self._renewing:  # a renewal that is under way would bring the file back
            with contextlib.suppress(StoreError):  # a lease that is left over goes stale
                found = read_holder(self._location)
                if found is not None and found.key == self._me.key:
                    self._location.remove(LOCK)
            if self._made_folder and self._location.is_local:
                with contextlib.suppress(OSError):  # it holds something
                    Path(self._location.root).rmdir()

    def check(self) -> None:
        """Do nothing while the folder is held.

        Raises:
            StoreError: if it is not any more: this process slept, or its storage did, for so long that another one has
                taken the folder.
        """
        # Whoever was asleep looks before it does anything.
        if self._lost is None and time.time() - self._me.renewed > self._pace.stale:
            with contextlib.suppress(StoreError):
                self._renew()
        if self._lost is not None:
            raise self._lost

    def _refuse_others(self) -> None:
        """Return if nobody holds the folder.

        Raises:
            StoreError: if somebody does, or may do.
        """
        found = read_holder(self._location)
        if found is None or found.is_dead:
            return
        if time.time() - found.renewed <= self._pace.stale:
            raise self._held_by(found)
        # By this clock it is stale; but clocks differ, and a holder that lives says so again before long.
        time.sleep(1.5 * self._pace.renew)
        later = read_holder(self._location)
        if later is not None and later != found and not later.is_dead:
            raise self._held_by(later)

    def _held_by(self, holder: Holder) -> StoreError:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
        return StoreError(
            f"another raygen works in it, {holder}, since {since}",
            where=self._location.title,
            right=f"let it finish or end it; if it is dead, wait {self._pace.stale:g} s or remove {LOCK}",
        )

    def _renew_always(self) -> None:
        while self._lost is None and not self._end.wait(self._pace.renew):
            # Storage that fails for a moment costs a renewal, and is asked again.
            with contextlib.suppress(StoreError):
                self._renew()

    def _renew(self) -> None:
        with self._renewing:
            if self._end.is_set() or self._lost is not None:
                return
            found = read_holder(self._location) if self._location.exists(LOCK) else None
            if found is None or found.key != self._me.key:
                who = f"to {found}" if found is not None else f"since {LOCK} was removed"
                self._lost = StoreError(
                    f"this process has lost the folder {who}, and stops",
                    where=self._location.title,
                    right="see raygen status; what was committed is kept",
                )
                return
            renewed = replace(self._me, renewed=time.time())
            self._location.write(LOCK, renewed.write(), lasting=False)
            self._me = renewed


def read_holder(location: Location) -> Holder | None:
    """Return who holds a folder, by its own account; None where nobody does.

    Raises:
        StoreError: if the storage does not answer.
    """
    for _ in range(3):
        if not location.exists(LOCK):
            return None
        with contextlib.suppress(StoreError):  # removed since
            return Holder.read(location.read(LOCK))
    return Holder.read(location.read(LOCK))


def is_held(location: Location, pace: Pace | None = None) -> bool:
    """Whether a process that seems alive holds a folder; to be looked at, nothing is changed."""
    found = read_holder(location)
    limit = (pace or Pace()).stale
    return found is not None and not found.is_dead and time.time() - found.renewed <= limit


@contextmanager
def _alone(location: Location) -> Iterator[None]:
    """Keep this machine's other processes out of the block, where the storage can."""
    if not location.is_local:
        yield
        return
    descriptor = -1
    # Where the folder cannot be made, writing into it says so; some network file systems know no locks.
    with contextlib.suppress(OSError):
        Path(location.root).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(location.root, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _system() -> str:
    """Return what only processes share that see each other by number."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _began(pid: int) -> str:
    """Return when a process began; "gone" if there is none, or if it has ended and nobody has taken note of it."""
    try:
        # The name, in parentheses, may hold anything; after it come the state and numbers (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "gone" if Path("/proc/self/stat").exists() or not _answers(pid) else "unknown"
    return "gone" if fields[0] in {"Z", "X"} else fields[19]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
