"""What ties workers to their driver: their warnings go to its log, and they end when it lets go of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_PACKAGE = "raygen"
_KEPT = 1000
"""Warnings kept until the driver takes them."""


# As many workers hold on to it at once.
@ray.remote(num_cpus=0, max_restarts=0, max_concurrency=10_000)  # type: ignore[call-overload]
class _Inbox:
    """Holds warnings between the workers that log them and the driver that takes them."""

    def __init__(self) -> None:
        self._notes: list[tuple[str, int, str]] = []

    async def last(self) -> None:
        """Go on for as long as the inbox is there."""
        await asyncio.Event().wait()

    def add(self, name: str, level: int, text: str) -> None:
        if len(self._notes) < _KEPT:
            self._notes.append((name, level, text))

    def take(self) -> list[tuple[str, int, str]]:
        notes, self._notes = self._notes, []
        return notes


class Notes:
    """The driver's end; workers end when it is closed.

    Attributes:
        inbox: to be sent to the workers.
    """

    def __init__(self) -> None:
        # On this machine, which all depends on anyway.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.inbox: Any = _Inbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._asked: Any = None

    def close(self) -> None:
        """Log what is left, and let go of the workers."""
        self.tell(patience=5.0)
        ray.kill(self.inbox)

    def tell(self, patience: float = 0.0) -> None:
        """Log here what workers have logged, as soon as it is known, but at most ``patience`` seconds from now."""
        if self._asked is None:
            self._asked = self.inbox.take.remote()
        ready, _ = ray.wait([self._asked], timeout=patience)
        if not ready:
            return
        self._asked = None
        # An inbox that is lost takes warnings with it, and nothing else.
        with contextlib.suppress(ray.exceptions.RayError):
            for name, level, text in ray.get(ready[0]):
                logging.getLogger(name).log(level, "%s", text)


@contextmanager
def tied_to(inbox: Any) -> Iterator[None]:
    """In a worker: within the block send what raygen warns of to an inbox; end the process when the inbox is gone."""
    threading.Thread(target=_end_with, args=(inbox,), daemon=True).start()
    handler = _Sender(inbox)
    logger = logging.getLogger(_PACKAGE)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _end_with(inbox: Any) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(inbox.last.remote())
    # Workers that no driver waits for would go on to the end of the training.
    os._exit(1)


class _Sender(logging.Handler):
    def __init__(self, inbox: Any) -> None:
        super().__init__(logging.WARNING)
        self._inbox = inbox

    def emit(self, record: logging.LogRecord) -> None:
        self._inbox.add.remote(record.name, record.levelno, record.getMessage())
