"""Tuning a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raygen.config import TuneConfig
from raygen.networks import NetworkSettings, list_layers, load_network, parse_nodes
from raygen.sampling import SamplingSettings, SavedReference, check_saved
from raygen.stages.requests import one_layer, reference_source

if TYPE_CHECKING:
    from raygen.cluster import TuningReport


def tune(config: TuneConfig, on_progress: Callable[[int, int], None]) -> TuningReport:
    """Search for the tilt and step size of a layer's nodes on Ray Tune.

    Raises:
        InputError: if a setting, the network or a node is wrong, or the nodes are of several layers.
    """
    from raygen.cluster import (  # noqa: PLC0415
        Search,
        search,
        session,
    )

    network = load_network(NetworkSettings.part_of(config))
    nodes = parse_nodes(config.nodes, network, list_layers(network))
    layer = one_layer(nodes, "tune")
    source = reference_source(config, network)
    if isinstance(source, SavedReference):
        check_saved(source, network, nodes, crop=config.crop)
    what = Search(
        out=config.out,
        network=network,
        images=source,
        # A trial is judged by its samples, and trials are compared: all are of one length.
        settings=SamplingSettings.part_of(config).model_copy(update={"log_z": False, "budget": None}),
        layer=layer,
        nodes=tuple(map(str, nodes)),
        contrasts=config.contrasts,
        step_sizes=config.step_sizes,
    )
    with session(config.address):
        return search(what, actors=config.actors, threads=config.threads, gpus=config.gpus, on_progress=on_progress)
