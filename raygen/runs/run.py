"""A run of many units: begun, worked through here or on a farm, and told of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import pyarrow.compute as pc

from raygen.data import ImageSet, hash_images
from raygen.errors import ScoreError
from raygen.networks import Network
from raygen.nodes import Node, write_name
from raygen.runs.planning import LINE, iter_units
from raygen.runs.reports import FarmReport, Totals, UnitReport
from raygen.runs.states import SAVE_EVERY, StateKeeper, read_state
from raygen.sampling import Profile, SamplingSettings, Source, UnitProgress, UnitSampler, check_saved, saved_reference
from raygen.store import Run, Unit

_PLACES = {"reference_file"}
"""Settings that say where something lies, which decides nothing."""


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
    line = 1 if settings.budget is None else LINE
    units = iter_units(nodes, chains=settings.chains, batch=settings.batch, line=line)
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
    for (layer, ending, is_sum), group in groupby(nodes, key=lambda node: (node.layer, node.ending, bool(node.terms))):
        if is_sum:
            parts += [str(node) for node in group]
            continue
        channels = [node.channel for node in group]
        breaks = [i for i in range(1, len(channels)) if channels[i] != channels[i - 1] + 1]
        for start, end in zip([0, *breaks], [*breaks, len(channels)], strict=True):
            first, last = channels[start], channels[end - 1]
            shown = f"{first}" if first == last else f"{first}-{last}"
            parts.append(f"{write_name(layer)}:{shown}{ending}")
    return " ".join(parts)


def sample_unit(
    run: Run,
    sampler: UnitSampler,
    unit: Unit,
    on_progress: Callable[[UnitProgress], None] | None = None,
    *,
    save_every: float = SAVE_EVERY,
) -> UnitReport:
    """Sample a unit and commit it; go on from the state that another process left of it, if there is one.

    Args:
        run: whose unit.
        sampler: of the run's network and settings.
        unit: not yet committed.
        on_progress: told after each trajectory.
        save_every: seconds between two states that are saved; 0 saves none. A unit that takes less leaves none.

    Raises:
        ScoreError: as ``UnitSampler.sample`` does.
        StoreError: if the samples cannot be written.
    """
    start = time.monotonic()
    keeper = StateKeeper(run, unit, save_every) if save_every else None
    rows = sampler.sample(unit, on_progress, on_state=keeper, saved=read_state(run, unit))
    run.commit(unit, rows)
    first = rows.filter(pc.equal(rows["draw"], 0))
    heads = first.filter(pc.equal(first["chain"], 0))
    return UnitReport(
        unit=unit.name,
        layer=unit.layer,
        samples=rows.num_rows,
        gradients=pc.sum(first["gradients"]).as_py() + (pc.sum(first["log_z_gradients"]).as_py() or 0),
        acceptance=pc.mean(first.filter(pc.is_null(first["dead"]))["acceptance_rate"]).as_py() or math.nan,
        nodes=heads.num_rows,
        converged=pc.sum(heads["converged"]).as_py(),
        dead=pc.sum(pc.is_valid(heads["dead"])).as_py(),
        seconds=time.monotonic() - start,
    )


def sample_here(
    run: Run, sampler: UnitSampler, on_progress: Callable[[FarmReport], None], *, save_every: float = SAVE_EVERY
) -> FarmReport:
    """Sample, in this process and without Ray, what a run still lacks; units that cannot be sampled are set aside."""
    plan = run.plan
    done = run.done(plan)
    before = done.count(1)
    start = time.monotonic()
    layers: dict[str, Totals] = {}
    set_aside: dict[str, str] = {}

    def report(*running: UnitProgress) -> FarmReport:
        seconds = time.monotonic() - start
        return FarmReport(len(plan), before, dict(layers), running, 1, set_aside, seconds, lost=len(set_aside))

    for unit in (unit for number, unit in enumerate(plan) if not done[number]):
        try:
            made = sample_unit(run, sampler, unit, lambda unit: on_progress(report(unit)), save_every=save_every)
            layers[unit.layer] = layers.get(unit.layer, Totals()) + Totals.of(made)
        except ScoreError as error:
            set_aside[unit.name] = str(error)
        on_progress(report())
    return report()
