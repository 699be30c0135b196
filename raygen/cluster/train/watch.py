"""What the driver of a training sees while the workers train: new epochs, missing machines, the workers' warnings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raygen.errors import StoreError
from raygen.training import EpochReport, TrainingFolder

log = logging.getLogger(__name__)

_WAIT = 30.0
"""Seconds between two looks whether machines are missing."""

_KEPT = 1000
"""Warnings kept until the driver takes them."""


class Watch:
    """Passes on the epochs that appear on storage; those from before are not repeated.

    Args:
        folder: of the training.
        on_epoch: called with each new epoch's report.
        waiting: returns what training waits for, None if for nothing.
    """

    def __init__(
        self, folder: TrainingFolder, on_epoch: Callable[[EpochReport], None], waiting: Callable[[], str | None]
    ) -> None:
        self._folder = folder
        self._on_epoch = on_epoch
        self._waiting = waiting
        self._seen = len(folder.history())
        self._last = time.monotonic()

    def look(self) -> None:
        """Pass on what is new since the last look."""
        self._look_for_epochs()
        if time.monotonic() - self._last >= _WAIT:
            self._last = time.monotonic()
            if (text := self._waiting()) is not None:
                log.warning(text)

    def _look_for_epochs(self) -> None:
        try:
            history = self._folder.history()
        except (StoreError, OSError) as error:
            # The workers see to the states; a look that fails is made again.
            log.debug("pretrain: %s", error)
            return
        for report in history[self._seen :]:
            self._seen += 1
            self._on_epoch(report)


# Each worker has a call to it for as long as it trains.
@ray.remote(num_cpus=0, max_restarts=0, max_concurrency=10_000)  # type: ignore[call-overload]
class _Inbox:
    """Holds warnings between the workers that log them and the driver that takes them."""

    def __init__(self) -> None:
        self._warnings: list[tuple[str, int, str]] = []

    async def last(self) -> None:
        """Last as long as the inbox does."""
        await asyncio.Event().wait()

    def add(self, name: str, level: int, text: str) -> None:
        if len(self._warnings) < _KEPT:
            self._warnings.append((name, level, text))

    def take(self) -> list[tuple[str, int, str]]:
        taken, self._warnings = self._warnings, []
        return taken


class WorkerLog:
    """Workers' warnings, for the log of the driver; workers end when it is closed.

    Attributes:
        inbox: to be sent to the workers.
    """

    def __init__(self) -> None:
        # On this machine: without it the training ends anyway.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.inbox: Any = _Inbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._asked: Any = None

    def close(self, patience: float) -> None:
        """Log what is left, waiting for it for 5 and at most ``patience`` seconds, and end the workers."""
        self.log(patience=min(patience, 5.0))
        ray.kill(self.inbox)

    def log(self, patience: float = 0.0) -> None:
        """Log what workers have logged, waiting for it for at most ``patience`` seconds."""
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
