"""A lease on a folder, so that one process at a time works in it; a process that died does not keep it.

The lease is a file that its holder renews, so it works on any storage. On a local disk, one of many gets it: a file
that is not there is made in one step, which succeeds for one; a dead holder's is replaced while others are excluded.

Object stores can write under a condition (If-None-Match, a generation), but pyarrow.fs cannot ask for it: of what is
given with an object it passes on a few headers, and drops the others (S3) or keeps them as labels (Google). There, and
on file systems without locks, who has written waits (``Pace.settle``) and reads back: who is in the file holds it, the
others are refused. The limit: who looked before that and wrote only after it was read back is in the file then, and
both hold the folder until the earlier one renews, finds the other there and stops. Until then they may do the same work
twice, which does no harm: both write the same files.
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

from raygen.documents import LARGEST, parse_json
from raygen.errors import StoreError
from raygen.process import process_start
from raygen.storage import Location
from raygen.store.request import LOCK, refuse_foreign_files

_KINDS = {"key": str, "host": str, "system": str, "pid": int, "began": str, "since": float, "renewed": float}

_LAST_TIME = 253402300800.0
"""The end of the year 9999, which every calendar can write."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a folder.

    Attributes:
        key: unique for each time that a folder is taken.
        host: name of its machine.
        system: names the boot and the container, within which process numbers can be compared.
        pid: its process number.
        began: when the process began (``process_start``), since process numbers are used again.
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
        now, pid = time.time(), os.getpid()
        return cls(os.urandom(8).hex(), socket.gethostname(), _system(), pid, process_start(pid), now, now)

    @classmethod
    def read(cls, data: bytes) -> Holder | None:
        """Return the holder that ``write`` wrote; None if ``data`` is torn or holds no sane numbers."""
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, OverflowError):
            found: Mapping[str, Any] = parse_json(data)
            holder = cls(**{name: kind(found[name]) for name, kind in _KINDS.items()})
            times = (holder.since, holder.renewed)
            return holder if 0 < holder.pid < 2**31 and all(0 <= each < _LAST_TIME for each in times) else None
        return None

    def write(self) -> bytes:
        """Return the content of the lock file."""
        return json.dumps(asdict(self), indent=2).encode()

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to have ended; of a process on another machine that is not known."""
        return self.system == _system() and process_start(self.pid) not in {self.began, "unknown"}

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Pace:
    """Seconds that a lease takes.

    Attributes:
        renew: from one renewal to the next.
        stale: without a renewal after which a holder counts as dead.
        settle: between writing the lease and reading it again, on storage that cannot exclude others.
    """

    renew: float = 10.0
    stale: float = 60.0
    settle: float = 1.0


class Lock:
    """A lease on a folder, a context: taken on entry, renewed by a thread, released on exit.

    Args:
        location: of the folder.
        request: name of the file that says what the folder is: without it, a folder with other files is refused.
        allowed: names that may be in the folder before that file.
        pace: of its renewal.

    Raises:
        StoreError: on entry, if another process holds the folder, or it cannot be written.
    """

    def __init__(
        self, location: Location, request: str, *, allowed: Collection[str] = (), pace: Pace | None = None
    ) -> None:
        self._location = location
        self._request = request
        self._allowed = allowed
        self._pace = pace or Pace()
        self._me = Holder.of_this_process()
        self._lost: StoreError | None = None
        self._made_folder = False
        self._renewing = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew_always, name="raygen-lock", daemon=True)

    def __enter__(self) -> Self:
        refuse_foreign_files(self._location, self._request, self._allowed)
        self._made_folder = not self._location.exists("")
        try:
            self._take()
        except BaseException:
            # The lock file may be there already: a signal can come between any two steps.
            self.__exit__()
            raise
        return self

    def _take(self) -> None:
        written = False
        while not written:
            seen = self._refuse_others()
            with _alone(self._location) as alone:
                written = self._replace(seen)
        if not alone:
            time.sleep(self._pace.settle)
            if (found := read_holder(self._location)) is not None and found.key != self._me.key:
                raise self._held_by(found)
        self._thread.start()

    def _replace(self, seen: bytes | None) -> bool:
        """Write this process into the lock file if it is still as it was seen; return whether it was."""
        self._me = replace(Holder.of_this_process(), key=self._me.key)
        if seen is None:
            return self._location.create(LOCK, self._me.write())
        if _read(self._location) != seen:
            return False
        self._location.write(LOCK, self._me.write(), lasting=False)
        return True

    def __exit__(self, *_: object) -> None:
        self._end.set()
        with self._renewing:  # a renewal under way would write the file again
            with contextlib.suppress(StoreError):  # a lease that stays goes stale
                found = read_holder(self._location)
                if found is not None and found.key == self._me.key:
                    self._location.remove(LOCK)
            if self._made_folder and self._location.is_local:
                with contextlib.suppress(OSError):  # it holds something
                    Path(self._location.root).rmdir()

    def check(self) -> None:
        """Do nothing while this process holds the folder.

        Raises:
            StoreError: if it no longer does: it, or its storage, stopped for so long that another process took the
                folder.
        """
        # After a long stop, read the lease before anything else.
        if self._lost is None and time.time() - self._me.renewed > self._pace.stale:
            with contextlib.suppress(StoreError):
                self._renew()
        if self._lost is not None:
            raise self._lost

    def _refuse_others(self) -> bytes | None:
        """Return the lock file's content, None where there is none, if nobody holds the folder.

        Raises:
            StoreError: if somebody does, or may do.
        """
        data = _read(self._location)
        found = None if data is None else Holder.read(data)
        # It may be this process's own: written, but the answer was lost.
        if found is None or found.is_dead or found.key == self._me.key:
            return data
        # Another machine's clock may be wrong: at most it refuses for as long as a live holder would be believed.
        if 0 <= time.time() - found.renewed <= self._pace.stale:
            raise self._held_by(found)
        # Whether it lives is judged by what is seen, with this machine's own clock: a live holder renews the lease.
        later = data
        until = time.monotonic() + self._pace.stale
        while time.monotonic() < until:
            time.sleep(min(self._pace.renew / 4, self._pace.stale / 8))
            later = _read(self._location)
            if later is None:
                return None
            if later != data and (holder := Holder.read(later)) is not None and not holder.is_dead:
                raise self._held_by(holder)
        return later

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
    """Return the process that holds a folder, as its lock file says; None where there is no such file.

    Raises:
        StoreError: if the storage does not answer.
    """
    data = _read(location)
    return None if data is None else Holder.read(data)


def _read(location: Location) -> bytes | None:
    """Return the lock file's content, None where there is none."""
    for _ in range(3):
        if not location.exists(LOCK):
            return None
        with contextlib.suppress(StoreError):  # removed since
            return location.read(LOCK, most=LARGEST)
    return location.read(LOCK, most=LARGEST)


def is_held(location: Location, pace: Pace | None = None) -> bool:
    """Whether a process that seems alive holds a folder; nothing is changed."""
    found = read_holder(location)
    limit = (pace or Pace()).stale
    # Clocks differ a little in either direction; one that is far ahead must not keep a dead process alive.
    return found is not None and not found.is_dead and abs(time.time() - found.renewed) <= limit


@contextmanager
def _alone(location: Location) -> Iterator[bool]:
    """Exclude other processes from the block, where the storage can; yield whether it does."""
    if not location.is_local:
        yield False
        return
    descriptor, alone = -1, False
    # If the folder cannot be made, the write that follows says so. Some network file systems have no locks.
    with contextlib.suppress(OSError):
        Path(location.root).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(location.root, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        alone = True
    try:
        yield alone
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _system() -> str:
    """Return the same text for all processes that see each other by number, and for no others."""
    # psutil knows neither the boot's identity nor the namespace of process numbers.
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)
