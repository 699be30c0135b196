"""A run of many units: begun, worked through here or on a farm, and told of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow.compute as pc

from raygen.data import ImageSet, hash_images
from raygen.errors import ScoreError
from raygen.networks import Network, Node
from raygen.sampling.planning import plan_units
from raygen.sampling.progress import UnitProgress
from raygen.sampling.reference import Source, check_saved, saved_reference
from raygen.sampling.settings import SamplingSettings
from raygen.sampling.unit import Profile, UnitSampler
from raygen.store import Run, Unit

_PLACES = {"reference_file"}
"""Settings that say where something lies, which decides nothing."""


@dataclass(frozen=True)
class UnitReport:
    """A committed unit in a few numbers.

    Attributes:
        unit: its name.
        samples: rows written.
        gradients: chain-gradients spent, those on log Z included.
        acceptance: mean acceptance rate.
        nodes, converged: how many nodes, and how many of them converged.
        seconds: it took.
        quiet: how many nodes are constant or dead, and were not sampled.
    """

    unit: str
    samples: int
    gradients: int
    acceptance: float
    nodes: int
    converged: int
    seconds: float
    quiet: int = 0


@dataclass(frozen=True)
class FarmReport:
    """How far a run is.

    Attributes:
        units: in the plan.
        before: of them, done before this start.
        reports: of the units done since.
        running: progress of the units in hand.
        actors: alive now.
        set_aside: units given up, with the reason.
        seconds: since this start.
    """

    units: int
    before: int
    reports: tuple[UnitReport, ...]
    running: tuple[UnitProgress, ...]
    actors: int
    set_aside: Mapping[str, str]
    seconds: float

    @property
    def done(self) -> int:
        """Units committed."""
        return self.before + len(self.reports)

    @property
    def fraction(self) -> float:
        """Of the whole plan, counting units in hand in part."""
        return (self.done + sum(unit.fraction for unit in self.running)) / max(self.units, 1)

    @property
    def seconds_left(self) -> float | None:
        """Estimate at the rate since this start; None before there is one."""
        made = self.fraction - self.before / max(self.units, 1)
        return self.seconds * (1 - self.fraction) / made if made > 0 else None

    @property
    def acceptance(self) -> float | None:
        """Mean over the units done since this start, or in hand where none is done; None before there is one."""
        rates = [unit.acceptance for unit in self.reports] or [unit.acceptance for unit in self.running]
        rates = [rate for rate in rates if not math.isnan(rate)]
        return sum(rates) / len(rates) if rates else None


def begin_run(
    place: str,
    network: Network,
    nodes: Sequence[Node],
    settings: SamplingSettings,
    *,
    images: Source,
    about: Mapping[str, str],
    profile: Profile | None = None,
) -> Run:
    """Begin the run that samples ``nodes`` of ``network``, or take it up again.

    Args:
        place: path or URI of its folder.
        network: whose nodes.
        nodes: without duplicates.
        settings: what decides the samples.
        images: what the reference is fitted to, or a saved reference; None for noise.
        about: versions and the like.
        profile: settings by layer.

    Raises:
        StoreError: if another run is there, or the reference's file cannot be read.
        SettingsError: if a saved reference does not fit a node's images.
    """
    saved = saved_reference(settings, images)
    if saved is not None:
        check_saved(saved, network, nodes, crop=settings.crop)
        about = {**about, "reference_file": saved.file}
    data = images if isinstance(images, ImageSet) else None
    units = plan_units(nodes, chains=settings.chains, batch=settings.batch)
    request = {
        "network": network.name,
        "weights_hash": network.weights_hash,
        "input_shape": network.input_shape,
        "mean": network.mean,
        "std": network.std,
        "nodes": describe_nodes(nodes),
        "data": None if data is None else data.name,
        "data_hash": None if data is None else hash_images(data),
        # What is in the file decides, and not where it lies.
        "reference_hash": None if saved is None else saved.hash,
        "settings": {name: getattr(settings, name) for name in SamplingSettings.model_fields if name not in _PLACES},
        "profile": {layer: dict(values) for layer, values in (profile or {}).items()},
    }
    return Run.begin(place, request, units, about=about)


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Return the nodes as the command line takes them, with runs of channels as ranges."""
    parts = []
    for (layer, place, is_sum), group in groupby(nodes, key=lambda node: (node.layer, node.ending, bool(node.terms))):
        if is_sum:
            parts += [str(node) for node in group]
            continue
        channels = [node.channel for node in group]
        breaks = [i for i in range(1, len(channels)) if channels[i] != channels[i - 1] + 1]
        for start, end in zip([0, *breaks], [*breaks, len(channels)], strict=True):
            first, last = channels[start], channels[end - 1]
            parts.append(f"{layer}:{first}{place}" if first == last else f"{layer}:{first}-{last}{place}")
    return " ".join(parts)


def sample_unit(
    run: Run, sampler: UnitSampler, unit: Unit, on_progress: Callable[[UnitProgress], None] | None = None
) -> UnitReport:
    """Sample a unit and commit it."""
    start = time.monotonic()
    rows = sampler.sample(unit, on_progress)
    run.commit(unit, rows)
    first = rows.filter(pc.equal(rows["draw"], 0))
    heads = first.filter(pc.equal(first["chain"], 0))
    return UnitReport(
        unit=unit.name,
        samples=rows.num_rows,
        gradients=pc.sum(first["gradients"]).as_py() + (pc.sum(first["log_z_gradients"]).as_py() or 0),
        acceptance=pc.mean(first.filter(pc.is_null(first["quiet"]))["acceptance_rate"]).as_py() or math.nan,
        nodes=heads.num_rows,
        converged=pc.sum(heads["converged"]).as_py(),
        quiet=pc.sum(pc.is_valid(heads["quiet"])).as_py(),
        seconds=time.monotonic() - start,
    )


def sample_here(run: Run, sampler: UnitSampler, on_progress: Callable[[FarmReport], None]) -> FarmReport:
    """Sample, in this process and without Ray, what a run still lacks; units that cannot be sampled are set aside."""
    units, done = run.units(), run.done()
    start = time.monotonic()
    reports: list[UnitReport] = []
    set_aside: dict[str, str] = {}

    def report(*running: UnitProgress) -> FarmReport:
        return FarmReport(len(units), len(done), tuple(reports), running, 1, set_aside, time.monotonic() - start)

    for unit in (unit for unit in units if unit.name not in done):
        try:
            reports.append(sample_unit(run, sampler, unit, lambda progress: on_progress(report(progress))))
        except ScoreError as error:
            set_aside[unit.name] = str(error)
        on_progress(report())
    return report()
