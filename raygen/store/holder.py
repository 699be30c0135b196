"""Who holds a folder: a process, in words and in a form by which it is found again."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
