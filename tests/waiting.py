"""Waiting for what another process does."""

import subprocess
import time
from collections.abc import Callable


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait until ``happened`` says so, as long as ``process`` runs, for some minutes at most."""
    deadline = time.monotonic() + 200
    while not happened():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
