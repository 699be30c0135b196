"""Freed memory that the process keeps."""

from __future__ import annotations

import contextlib
import ctypes

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE = 2**30


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
