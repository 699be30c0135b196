"""What a process asks of the system: to keep its freed memory, how much it has, and when another process began."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from typing import Self

import psutil

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE = 2**30

_LOOK = 0.002
"""Seconds between two looks at the memory; what needs much of it takes longer."""


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory instead of returning it to the kernel; return whether it could be asked.

    A network's intermediate images are tens of megabytes, allocated and freed at every gradient. Returned to the kernel
    each time, their pages are zeroed and mapped anew each time, which took a tenth of the sampler's time on LeNet in
    float32, and as much of a training step's. Does nothing where the C library is another.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_TRIM_THRESHOLD, _LARGE))
    return False


class PeakMemory:
    """The most memory that this process has within the block; a thread looks every few milliseconds.

    Freed memory that the C library has kept is returned to the system first, where glibc can: it would hide a peak.

    Attributes:
        base: bytes at the beginning.
        peak: bytes at the peak, known after the block.
    """

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        self._process = psutil.Process()
        self.base = self.peak = int(self._process.memory_info().rss)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._end.wait(_LOOK):
            self._look()

    def _look(self) -> None:
        self.peak = max(self.peak, int(self._process.memory_info().rss))


def free_memory() -> int:
    """Return how many bytes the system can give to processes without swapping."""
    return int(psutil.virtual_memory().available)


def process_start(pid: int) -> str:
    """Return when a process began, in ticks of the system's clock since its boot.

    Ticks since the boot, as Linux counts them in proc(5), stay the same when somebody sets the clock.

    Args:
        pid: its number; any number, since it may come from a file.

    Returns:
        The ticks; "gone" if there is no such process, or if it has ended and its parent has not noticed; "unknown" if
        the system does not say.
    """
    try:
        process = psutil.Process(pid)
        if process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}:
            return "gone"
        # In this order, since older versions of psutil keep the time of the boot that they were last asked for.
        boot = psutil.boot_time()
        seconds = process.create_time() - boot
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return "gone"
    except psutil.Error:
        return "unknown"
    return str(round(seconds * os.sysconf("SC_CLK_TCK")))
