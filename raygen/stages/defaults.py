"""What sampling takes where the user gives nothing else: by the network's images and the kind of the nodes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from raygen.errors import NetworkError
from raygen.networks import Network, NetworkSettings, list_layers, load_network
from raygen.notation import Node
from raygen.sampling import SamplingSettings

_PHOTOGRAPH = 128
"""Side of the smallest images, in pixels, that are halved where no size is asked for."""


def load_sampled(config: NetworkSettings, nodes: str) -> Network:
    """Return the network that a configuration names, for images of half its side where no size is asked for.

    A network of photographs whose classes are means over its last map has them at any size. At half the side they can
    be read as well, for a quarter of the time. Positions, as in ``conv2:7@3,4``, are those on the map of the full size.

    Args:
        config: which network, weights and size.
        nodes: that are to be sampled, as the user wrote them.

    Raises:
        InputError: if the network cannot be loaded.
    """
    settings = NetworkSettings.part_of(config)
    network = load_network(settings)
    channels, height, width = network.input_shape
    given = settings.input_size is not None or channels != 3 or height != width or height < _PHOTOGRAPH
    if given or "@" in nodes or not _is_averaged(network):
        return network
    try:
        return load_network(settings.model_copy(update={"input_size": height // 2}))
    except NetworkError:
        return network


def sampling_settings(config: SamplingSettings, network: Network, nodes: Sequence[Node]) -> SamplingSettings:
    """Return the settings of a configuration, filled in for such images and nodes where it gives none."""
    settings = SamplingSettings.part_of(config)
    asked = {node.layer for node in nodes}
    layers = [layer for layer in list_layers(network) if layer.name in asked]
    channels, *sides = network.input_shape
    fields = [layer.receptive_field if settings.crop and not layer.is_classes else None for layer in layers]
    side = max((min(max(sides), field or max(sides)) for field in fields), default=max(sides))
    classes = any(layer.is_classes or layer.map_size is None for layer in layers)
    return settings.for_images_of(channels, side, classes=classes)


def _is_averaged(network: Network) -> bool:
    """Return whether the classes of a network are means over its last map."""
    mapped = 0
    for layer in list_layers(network):
        is_map = layer.map_size is not None and max(layer.map_size) > 1
        if layer.is_classes:
            module = network.module.get_submodule(layer.name)
            return is_map or (isinstance(module, nn.Linear) and module.in_features == mapped)
        mapped = layer.channels if is_map else mapped
    return False
