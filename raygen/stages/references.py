"""Fitting a reference."""

from __future__ import annotations

from raygen.config import ReferenceConfig
from raygen.data import DataSettings, load_data
from raygen.networks import NetworkSettings, cut_network, list_layers, load_network, parse_nodes
from raygen.sampling import fit_reference
from raygen.stages.requests import one_layer
from raygen.tilting import FitSettings, Provenance, save_reference


def reference(config: ReferenceConfig) -> tuple[Provenance, tuple[int, int, int]]:
    """Fit a reference to images, in a network's input units, and write it to a file.

    Returns:
        What it was fitted to, and its (C, H, W).

    Raises:
        InputError: if a setting, the network, a node or the data is wrong, or the file cannot be written.
    """
    network = NetworkSettings.part_of(config)
    # Weights decide nothing here, but a file of them may say which network it is.
    network = network.model_copy(update={"weights": network.weights or "random"})
    loaded = load_network(network)
    shape = loaded.input_shape
    if config.nodes is not None:
        layer = one_layer(parse_nodes(config.nodes, loaded, list_layers(loaded)), "give")
        shape = cut_network(loaded, layer, crop=config.crop).input_shape
    images = load_data(DataSettings.part_of(config), loaded.input_shape)[0]
    fitted, provenance = fit_reference(FitSettings.part_of(config), shape, loaded, images)
    save_reference(config.out, fitted, provenance)
    return provenance, shape
