"""What a configuration of sampling names, loaded."""

from __future__ import annotations

from dataclasses import dataclass

from raygen.config import SampleConfig, TuneConfig, read_mapping
from raygen.data import DataSettings, load_data
from raygen.errors import SettingsError
from raygen.networks import Network, NetworkSettings, Node, list_layers, load_network, parse_nodes
from raygen.runs import begin_run
from raygen.sampling import Profile, SamplingSettings, SavedReference, Source
from raygen.stages.facts import about
from raygen.store import Run

_PROFILED = {"contrast", "tilt", "step_size"}
"""What a profile may set for a layer."""


@dataclass(frozen=True)
class Request:
    """What is to be sampled.

    Attributes:
        network: whose nodes.
        nodes: without duplicates.
        settings: what decides the samples.
        images: what the reference is fitted to, or a saved reference; None for noise.
        profile: settings by layer.
    """

    network: Network
    nodes: tuple[Node, ...]
    settings: SamplingSettings
    images: Source
    profile: Profile


def read_request(config: SampleConfig) -> Request:
    """Load the network, the nodes, the images and the profile that a configuration names.

    Raises:
        InputError: if one of them is wrong.
    """
    network = load_network(NetworkSettings.part_of(config))
    nodes = parse_nodes(config.nodes, network, list_layers(network))
    profile = {} if config.profile is None else read_profile(config.profile, network)
    return Request(network, nodes, SamplingSettings.part_of(config), reference_source(config, network), profile)


def begin(config: SampleConfig, what: Request) -> Run:
    """Begin the run that a configuration asks for, or take it up again.

    Raises:
        InputError: as ``raygen.sampling.begin_run`` does.
    """
    facts = {**about(), **({"weights": config.weights} if config.weights else {})}
    return begin_run(
        config.out, what.network, what.nodes, what.settings, images=what.images, about=facts, profile=what.profile
    )


def read_profile(file: str, network: Network) -> Profile:
    """Return the settings by layer that ``raygen tune`` found.

    Raises:
        SettingsError: if the file is no profile, or one of another network.
    """
    document = read_mapping(file)
    layers = document.get("layers")
    if not isinstance(layers, dict) or not all(
        isinstance(values, dict) and set(values) <= _PROFILED for values in layers.values()
    ):
        raise SettingsError("is no profile", where=file, right="give the profile.yaml that raygen tune wrote")
    if document.get("weights_hash") != network.weights_hash:
        raise SettingsError("is a profile of other weights", where=file,
                            right="give the weights that it was found with, or tune again")  # fmt: skip
    for layer, values in layers.items():
        SamplingSettings.parse(values, where=f"{file}, layer {layer}")
    return layers


def reference_source(config: SampleConfig | TuneConfig, network: Network) -> Source:
    """Return the images that a fitted reference is fitted to, or a saved reference; None for noise."""
    if config.reference_file is not None:
        return SavedReference.read(config.reference_file)
    if config.reference != "fitted":
        return None
    return load_data(DataSettings.part_of(config), network.input_shape)[0]


def one_layer(nodes: tuple[Node, ...], verb: str) -> str:
    """Return the layer that all nodes are of; ``verb`` says what is done with them.

    Raises:
        SettingsError: if there are several, or a node has an ending.
    """
    layers = list(dict.fromkeys(node.layer for node in nodes))
    if len(layers) > 1 or any(node.ending for node in nodes):
        raise SettingsError(f"nodes of {', '.join(layers)}", where="nodes",
                            right=f"{verb} the nodes of one layer, without positions, @mean or @relu")  # fmt: skip
    return layers[0]
