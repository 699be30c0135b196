"""What a driver's connection to Ray hangs on: the head's GCS, and Ray's process on this machine, the raylet.

When one of them dies, Ray itself waits for a minute and ends the process, or fails somewhere else. Here both are
watched, so that the work ends at once, with an error that says what died.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Protocol

import psutil

from raygen.errors import RaygenError, UnfinishedError

_LOOK = 0.2
"""Seconds between two looks."""

_AGAIN = 1.0
"""Seconds after which a death that a library has swallowed is raised once more."""

_GRACE = 7.0
"""Seconds that the work has to end in after a death; where it hangs in Ray, the process is ended."""

_PATIENCE = 2.0
"""Seconds that a head refuses connections before it is taken for dead; more where Ray is set to wait for it."""

_GCS, _RAYLET = "gcs_server", "raylet"

_RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's own variable, set where a head is to be restarted under the work, as KubeRay does."""

_ANSWER = 5.0
"""Seconds that a head has to take a connection."""

# Nobody sends it, and without a handler it does nothing.
_SIGNAL = signal.SIGURG


class Lost(BaseException):
    """Ray has died under the work; the lifeline makes it an error with a message."""


class Part(Protocol):
    """Something that the connection hangs on.

    Attributes:
        name: for the user.
    """

    name: str

    def is_alive(self) -> bool:
        """Whether it is alive, as far as is known."""
        ...

    def close(self) -> None:
        """Look no more."""
        ...


class Child:
    """A process of Ray that this process starts, once it is there.

    Args:
        name: for the user.
        program: its file's name.
    """

    def __init__(self, name: str, program: str) -> None:
        self.name = name
        self.program = program
        self._before = {process.pid for process in psutil.Process().children()}
        self._process: psutil.Process | None = None

    def is_alive(self) -> bool:
        """Whether it runs, or is still to be started."""
        if self._process is None:
            self._process = self._find()
        with contextlib.suppress(psutil.NoSuchProcess):
            return self._process is None or self._process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
        return False

    def close(self) -> None:
        """Do nothing: the process is Ray's to end."""

    def kill(self) -> None:
        """End it without waiting for it; nothing happens if it is gone."""
        with contextlib.suppress(psutil.Error):
            if self._process is not None:
                self._process.kill()

    def _find(self) -> psutil.Process | None:
        for process in psutil.Process().children():
            # One that has ended meanwhile cannot be asked.
            with contextlib.suppress(psutil.Error):
                if process.pid not in self._before and process.name() == self.program:
                    return process
        return None


class Peer:
    """A process that a connection is held to: it ends with the process.

    Args:
        name: for the user.
        address: a host and a port, or the path of a socket on this machine.
        patience: seconds without a connection after which it is taken for dead; a server may close one that is idle.
    """

    def __init__(self, name: str, address: tuple[str, int] | str, patience: float = 0.0) -> None:
        self.name = name
        self._address = address
        self._patience = patience
        self._connection: socket.socket | None = None
        self._missed: float | None = None

    def is_alive(self) -> bool:
        """Whether it holds the connection, or takes another."""
        if self._connection is not None and _is_open(self._connection):
            return True
        now = time.monotonic()
        self.close()
        try:
            self._connection = _connect(self._address)
        except OSError:
            self._missed = now if self._missed is None else self._missed
            return time.monotonic() - self._missed < self._patience
        self._missed = None
        return True

    def close(self) -> None:
        """Give the connection up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Lifeline:
    """Ends the block when a part that the connection hangs on dies.

    Args:
        parts: that are known before the connection is made.

    Raises:
        UnfinishedError: if one has died within the block. Where the block has not ended some seconds after a death,
            since it hangs in Ray's compiled code, the same line is printed, and the process ends with the status of
            that error; Ray would end it too, after a minute.
    """

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._looking = threading.Lock()
        self._dead = ""
        self._within, self._over = True, threading.Event()
        self._owner = threading.get_ident()
        self._in_main = threading.current_thread() is threading.main_thread()
        self._handler: object = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Lifeline:
        if self._in_main:
            self._handler = signal.signal(_SIGNAL, self._raise)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What Ray raises of a death may be here before it is seen.
        waits = isinstance(error, Exception) and not isinstance(error, RaygenError)
        deadline = time.monotonic() + (_PATIENCE + 1 if waits else 0)
        while isinstance(error, Exception) and not self._look() and time.monotonic() < deadline:
            time.sleep(_LOOK)
        self._within = False
        if self._dead and isinstance(error, Lost | Exception):
            raise self._error() from None

    def add(self, part: Part) -> None:
        """Watch one more part."""
        with self._looking:
            self._parts.append(part)

    def cut(self, *, whole: bool = False) -> None:
        """End the raylet of a dead Ray, if this process started it: Ray would wait for it.

        Args:
            whole: end the GCS too, without which Ray cannot be shut down in order.
        """
        for part in self._parts if self._dead else []:
            if isinstance(part, Child) and (whole or part.program == _RAYLET):
                part.kill()

    def close(self) -> None:
        """Watch no more, neither the parts nor whether the work ends."""
        self._within = False
        self._over.set()
        self._thread.join()
        if self._in_main:
            signal.signal(_SIGNAL, self._handler)  # type: ignore[arg-type]
        for part in self._parts:
            part.close()

    def _look(self) -> bool:
        with self._looking:
            if not self._dead:
                self._dead = next((part.name for part in self._parts if not part.is_alive()), "")
            return bool(self._dead)

    def _watch(self) -> None:
        while self._within and not self._look():
            self._over.wait(_LOOK)
        if not self._within:
            return
        deadline = time.monotonic() + _GRACE
        if not self._in_main:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._owner), ctypes.py_object(Lost))
        while time.monotonic() < deadline:
            if self._in_main and self._within:
                signal.pthread_kill(self._owner, _SIGNAL)
            if self._over.wait(_AGAIN):
                return
        self._end()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        error = sys.exc_info()[1]
        while error is not None:
            if isinstance(error, Lost):  # whoever cleans up because of it is left alone
                return
            error = error.__context__
        if self._dead and self._within:
            raise Lost

    def _error(self) -> UnfinishedError:
        return UnfinishedError(
            f"Ray's {self._dead} died; what is finished is kept, and the same command continues from there"
        )

    def _end(self) -> None:
        self.cut(whole=True)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        # Not through Python's own stream: whoever hangs may hold it.
        os.write(2, f"raygen: {self._error()}\n".encode())
        os._exit(UnfinishedError.exit_status)


def own_parts() -> list[Part]:
    """Return the parts of a Ray that this process is about to start."""
    return [Child("head process (GCS)", _GCS), Child("process on this machine (raylet)", _RAYLET)]


def head_part(host: str, port: int) -> Part:
    """Return the head of a cluster."""
    patience = _PATIENCE
    with contextlib.suppress(ValueError):
        patience = max(patience, float(os.environ.get(_RECONNECT, "")))
    return Peer(f"head (GCS) at {host}:{port}", (host, port), patience)


def raylet_part(path: str) -> Part:
    """Return the process of a cluster on this machine, by the path of its socket."""
    return Peer("process on this machine (raylet)", path)


def _connect(address: tuple[str, int] | str) -> socket.socket:
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout=_ANSWER)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _is_open(connection: socket.socket) -> bool:
    """Whether the other side still holds a connection; what it has sent is read and dropped."""
    try:
        while select.select([connection], [], [], 0)[0]:
            if not connection.recv(4096):
                return False
    except OSError:
        return False
    return True
