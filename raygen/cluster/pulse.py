"""Whether Ray's servers still answer: one that hangs keeps its connections, as one that works does."""

from __future__ import annotations

import math
import time
from typing import Any, Protocol

from ray._private.grpc_utils import init_grpc_channel

GCS, RAYLET = "gcs_server", "raylet"
"""Ray's servers, by their files' names."""

NAMES = {GCS: "head process (GCS)", RAYLET: "process on this machine (raylet)"}
"""What they are for the user, those that this process has started."""

_DEADLINE = 10.0
"""Seconds that a server has to answer; a busy one is slow."""

_MISSES = 2
"""Questions in a row without an answer, after which a server is taken for hung: a driver that was itself asleep has
missed one."""

_GAP = 0.25
"""From one question that was answered to the next, as a fraction of the deadline."""

# Cheap to answer, and answered where the server does its work. A server that does not know it says so: it answers too.
_QUESTIONS = {
    GCS: "/ray.rpc.NodeInfoGcsService/GetClusterId",
    RAYLET: "/ray.rpc.NodeManagerService/GetSystemConfig",
}

# Any other is the server's own word.
_NO_ANSWER = {"DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED"}

# Ray goes past proxies; one that is back, such as a head that was restarted, must be seen before the next questions.
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.initial_reconnect_backoff_ms", 500)]
_OPTIONS += [("grpc.min_reconnect_backoff_ms", 5000), ("grpc.max_reconnect_backoff_ms", 2000)]


class _Question(Protocol):
    """A question that is under way."""

    def done(self) -> bool: ...

    def code(self) -> Any: ...


class Pulse:
    """A server of Ray that is asked something cheap again and again, as Ray itself asks it: with TLS and tokens.

    Args:
        name: for the user.
        program: ``GCS`` or ``RAYLET``.
        address: its host and port.
        patience: seconds without an answer that it has at least, such as a head that may be restarted.
        deadline: seconds that it has for each answer.

    Attributes:
        end: what has happened to one that is not alive.
    """

    def __init__(
        self, name: str, program: str, address: tuple[str, int], patience: float = 0.0, *, deadline: float = _DEADLINE
    ) -> None:
        self.name = name
        self.program = program
        self._limit = max(_MISSES, math.ceil(patience / deadline))
        self._deadline = deadline
        self.end = f"hangs, it has answered nothing for {self._limit * deadline:g} s"
        host, port = address
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._channel: Any = init_grpc_channel(where, _OPTIONS)
        self._ask: Any = self._channel.unary_unary(_QUESTIONS[program])
        self._question: _Question | None = None
        self._asked = -math.inf
        self._missed = 0

    def is_alive(self) -> bool:
        """Whether it has answered one of the last questions; asks the next when it is time, and does not wait."""
        now = time.monotonic()
        if self._question is not None and self._question.done():
            self._missed = self._missed + 1 if self._question.code().name in _NO_ANSWER else 0
            self._question = None
        # One that is away says so at once, and has as long to come back.
        if self._question is None and now - self._asked >= self._deadline * (1 if self._missed else _GAP):
            self._asked = now
            self._question = self._ask.future(b"", timeout=self._deadline)
        return self._missed < self._limit

    def close(self) -> None:
        """Ask no more."""
        self._channel.close()
