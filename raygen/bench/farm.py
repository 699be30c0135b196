"""``raygen bench farm``: what it costs beside bare processes, how fast it hands out, and a farm in virtual time."""

from __future__ import annotations

from collections.abc import Iterator

from raygen.bench.farm_settings import FarmBenchSettings
from raygen.bench.results import Result


def bench_farm(settings: FarmBenchSettings) -> Iterator[Result]:
    """Yield the farm's speed against bare processes, its overhead, its own speed and memory, and a simulation.

    Raises:
        SettingsError: if there are not two CPUs for two actors.
    """
    from raygen.bench.farm_cases import measure  # noqa: PLC0415  (only here Ray is needed)

    yield from measure(settings)
