"""From nodes to a run: which chains share a batch, and what is asked of the run. The cluster decides nothing of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from raygen.data import ImageSet, hash_images
from raygen.networks import Network
from raygen.notation import Node, write_name
from raygen.sampling import Profile, SamplingSettings, Source, check_saved, saved_reference
from raygen.store import Run, Unit

LINE = 4
"""Batches of nodes in a unit where nodes stop when they have converged: waiting nodes then begin in the room of those
that have stopped. With a longer line the batch is full for longer, but units are fewer."""

_PATHS = {"reference_file"}
"""Settings that say where a file is, which decides nothing."""


def plan_units(nodes: Iterable[Node], *, chains: int, batch: int, line: int = 1) -> Iterator[Unit]:
    """Yield units, each of the nodes of one layer and ending: at most ``line`` batches of them, and at least one node.

    Args:
        nodes: without duplicates; their order is kept within a layer.
        chains: of each node.
        batch: chains that may share a pass.
        line: batches of nodes in a unit, which follow each other.
    """
    groups: dict[tuple[str, str], list[Node]] = {}
    for node in nodes:
        groups.setdefault((node.layer, node.ending), []).append(node)
    size = line * max(1, batch // chains)
    for (layer, ending), group in groups.items():
        written = write_name(layer)
        for start in range(0, len(group), size):
            part = group[start : start + size]
            # As str writes each, with the common part made once.
            named = tuple(str(node) if node.terms else f"{written}:{node.channel}{ending}" for node in part)
            yield Unit(f"{layer}{ending}-{start // size:05d}", layer, named, chains)


def begin_run(
    folder: str,
    network: Network,
    nodes: Sequence[Node],
    settings: SamplingSettings,
    *,
    images: Source,
    about: Mapping[str, str],
    profile: Profile | None = None,
) -> Run:
    """Begin the run that samples ``nodes`` of ``network``, or continue it.

    Args:
        folder: path or URI.
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
    units = plan_units(nodes, chains=settings.chains, batch=settings.together, line=line)
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
        "settings": {name: getattr(settings, name) for name in SamplingSettings.model_fields if name not in _PATHS},
        "profile": {layer: dict(values) for layer, values in (profile or {}).items()},
    }
    return Run.begin(folder, request, units, about=about)


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
