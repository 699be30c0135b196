"""Rays that tests start: on loopback, with folders of their own, ended with the block."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def surroundings(home: Path, **variables: str) -> Iterator[None]:
    """Give the Rays that are started within the block a home and folders, and what marks them as its own."""
    # Ray's sockets need a short path, which pytest's folders are not.
    scratch = tempfile.mkdtemp(prefix="rg-")
    settings = {
        "RAY_TMPDIR": scratch,
        "HOME": str(home),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        for name, value in (settings | variables).items():
            patch.setenv(name, value)
        try:
            yield
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def one_machine(home: Path, cpus: int) -> Iterator[None]:
    """Be connected to a Ray of this machine alone, with so many CPUs, however many there are."""
    with surroundings(home, RAY_OVERRIDE_RESOURCES=f'{{"CPU": {cpus}}}'):
        from raygen.cluster import session

        with session():
            yield


@contextmanager
def many_machines(home: Path, **variables: str) -> Iterator[Any]:
    """Be connected to a head without CPUs, to which tests add machines, all of them this one."""
    with surroundings(home, **variables):
        from ray.cluster_utils import Cluster

        from raygen.cluster import session

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            with session(cluster.address):
                yield cluster
        finally:
            cluster.shutdown()
