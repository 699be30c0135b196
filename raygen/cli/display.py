"""What is shown during the work: a live line in a terminal, a plain line now and then in a log."""

from __future__ import annotations

import time
from typing import TextIO

from rich.console import Console
from rich.status import Status
from rich.text import Text

from raygen.text import for_terminal

_EVERY = 10.0
"""Seconds between two lines of a stage in a log."""


class Display:
    """Shows one stage after the other.

    Args:
        stream: a terminal or a log; the command's results go to it as well.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True, emoji=False)
        self._status: Status | None = None
        self._stage = ""
        self._last = 0.0

    @property
    def is_terminal(self) -> bool:
        """Whether lines that are out of date can be replaced."""
        return self._console.is_terminal

    def stage(self, name: str) -> None:
        """Begin a stage."""
        self.close()
        self._stage, self._last = name, 0.0
        if self._console.is_terminal:
            self._status = self._console.status(Text(for_terminal(name)))
            self._status.start()
        else:
            self.say(f"{name} ...")
            self._last = time.monotonic()

    def update(self, text: str) -> None:
        """Show how far the stage is."""
        if self._status is not None:
            self._status.update(Text(for_terminal(f"{self._stage}: {text}")))
        elif time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            self.say(f"{self._stage}: {text}")

    def live(self, text: str) -> None:
        """Show how far the stage is, in a terminal only, where the line is replaced by the next."""
        if self._status is not None:
            self._status.update(Text(for_terminal(f"{self._stage}: {text}")))

    def say(self, text: str) -> None:
        """Print a line that stays; whatever it is made of, it is one line."""
        self._console.print(for_terminal(text), markup=False)

    def table(self, text: str) -> None:
        """Print a table, as ``raygen.cli.tables`` makes them."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """End the stage that is shown."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def progress_line(fraction: float, seconds_left: float | None, *facts: str) -> str:
    """Return per cent, facts and the time left as one line."""
    left = "" if seconds_left is None else f"{duration(seconds_left)} left"
    return ", ".join(part for part in (f"{100 * fraction:.0f} %", *facts, left) if part)


def duration(seconds: float) -> str:
    """Return a time in words: 45 s, 3 min 20 s, 5 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
