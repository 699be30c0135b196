"""What the driver of a training sees while the workers train: epochs that appear on storage, and missing machines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from raygen.errors import StoreError
from raygen.training import EpochReport, TrainingFolder

log = logging.getLogger(__name__)

_WAIT = 30.0
"""Seconds between two looks whether machines are missing."""


class Watch:
    """Passes on the epochs that appear on storage; those from before are not repeated.

    Args:
        folder: of the training.
        on_epoch: told of each new epoch.
        waiting: says what training waits for, None if for nothing.
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
