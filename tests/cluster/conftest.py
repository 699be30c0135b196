"""The Rays of the tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_rooms import one_machine


@pytest.fixture(scope="module")
def cluster(ray_home: Path) -> Iterator[None]:
    with one_machine(ray_home, cpus=2):
        yield


@pytest.fixture(scope="module")
def wide_cluster(ray_home: Path) -> Iterator[None]:
    with one_machine(ray_home, cpus=4):
        yield
