"""One Ray for the tests of a module: of this machine alone, on loopback, with two CPUs."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def cluster(ray_home: Path) -> Iterator[None]:
    # Ray's sockets need a short path, which pytest's folders are not.
    scratch = tempfile.mkdtemp(prefix="rg-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", scratch)
        patch.setenv("HOME", str(ray_home))
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2}')
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("RAY_ADDRESS", raising=False)
        from raygen.cluster import session

        with session():
            yield
    shutil.rmtree(scratch, ignore_errors=True)
