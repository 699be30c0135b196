"""The stages as functions, each with the configuration of its command: pretrain, reference, sample, tune, gallery.

``sample`` with ``local`` and everything about networks and data work without Ray; the others import it when they run.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torchvision

import raygen
from raygen.config import PipelineConfig, PretrainConfig, ReferenceConfig, SampleConfig, TuneConfig, read_mapping
from raygen.data import DataSettings, load_data
from raygen.errors import SettingsError, UnfinishedError
from raygen.gallery import GallerySummary, build_gallery
from raygen.hmc.export import Groups
from raygen.networks import Network, NetworkSettings, Node, cut_network, list_layers, load_network, parse_nodes
from raygen.sampling import (
    FarmReport,
    Profile,
    SamplingSettings,
    SavedReference,
    Source,
    UnitSampler,
    begin_run,
    check_saved,
    fit_reference,
    keep_freed_memory,
    sample_here,
    trace_nodes,
)
from raygen.store import Run
from raygen.tilting import FitSettings, Provenance, save_reference
from raygen.training import EpochReport, TrainingFolder, TrainingSettings

if TYPE_CHECKING:
    from raygen.cluster.tune import TuningReport

_PROFILED = {"contrast", "tilt", "step_size"}
"""What a profile may set for a layer."""


@dataclass(frozen=True)
class Sampled:
    """What sampling leaves: the run, and how it went."""

    run: Run
    report: FarmReport


def pretrain(config: PretrainConfig, on_epoch: Callable[[EpochReport], None]) -> TrainingFolder:
    """Train a network on Ray Train; go on where the same command was interrupted.

    Raises:
        InputError: if a setting, the data or the folder is wrong.
    """
    from raygen.cluster import TrainingTask, session, train_workers  # noqa: PLC0415  (only here Ray is needed)
    from raygen.cluster import pretrain as pretrain_on_ray  # noqa: PLC0415

    network, data = NetworkSettings.part_of(config), DataSettings.part_of(config)
    settings = TrainingSettings.part_of(config)
    start = load_network(network.model_copy(update={"weights": network.weights or "random"}), seed=config.seed)
    load_data(data, start.input_shape)  # its errors are told here, not by every worker
    request = {
        "network": start.name,
        "arguments": network.arguments,
        "weights_hash": start.weights_hash,
        "input_shape": start.input_shape,
        "data": data.data,
        "limit": data.limit,
        "settings": settings.model_dump(),
        "seed": config.seed,
    }
    folder = TrainingFolder.claim(config.out, request, about=about())
    if folder.finished:
        return folder
    task = TrainingTask(folder, network, data, settings, config.seed, config.threads, config.gpus > 0)
    with session(config.address):
        pretrain_on_ray(task, workers=config.workers or train_workers(task), on_epoch=on_epoch)
    return folder


def sample(config: SampleConfig, on_progress: Callable[[FarmReport], None]) -> Sampled:
    """Sample nodes, on a farm of Ray actors or, if ``local``, in this process.

    Raises:
        InputError: if a setting, the network, a node or the folder is wrong.
        UnfinishedError: if units were set aside; the others are committed.
    """
    network = load_network(NetworkSettings.part_of(config))
    nodes = parse_nodes(config.nodes, network, list_layers(network))
    profile = {} if config.profile is None else read_profile(config.profile, network)
    settings = SamplingSettings.part_of(config)
    images = reference_source(config, network)
    facts = {**about(), **({"weights": config.weights} if config.weights else {})}
    run = begin_run(config.out, network, nodes, settings, images=images, about=facts, profile=profile)
    if config.local:
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        device = torch.device("cuda" if config.gpus > 0 else "cpu")
        report = sample_here(run, UnitSampler(network, settings, images, device, profile), on_progress)
    else:
        report = _farm(config, run, network, images, profile, on_progress)
    if report.set_aside:
        unit, reason = next(iter(report.set_aside.items()))
        raise UnfinishedError(
            f"{config.out}: {len(report.set_aside)} of {report.units} units were set aside, "
            f"{', '.join(sorted(report.set_aside)[:5])}; {unit}: {reason}"
        )
    return Sampled(run, report)


def trace(config: SampleConfig) -> dict[str, Groups]:
    """Draw in this process, without images, the chains that ``sample`` draws; nothing is written, ``out`` is not read.

    Returns:
        By node: what ArviZ reads, see ``raygen.sampling.trace_nodes``.

    Raises:
        InputError: if a setting, the network or a node is wrong.
    """
    network = load_network(NetworkSettings.part_of(config))
    nodes = parse_nodes(config.nodes, network, list_layers(network))
    profile = {} if config.profile is None else read_profile(config.profile, network)
    device = torch.device("cuda" if config.gpus > 0 else "cpu")
    source = reference_source(config, network)
    return trace_nodes(network, nodes, SamplingSettings.part_of(config), images=source, device=device, profile=profile)


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
        layer = _one_layer(parse_nodes(config.nodes, loaded, list_layers(loaded)), "give")
        shape = cut_network(loaded, layer, crop=config.crop).input_shape
    images = load_data(DataSettings.part_of(config), loaded.input_shape)[0]
    fitted, provenance = fit_reference(FitSettings.part_of(config), shape, loaded, images)
    save_reference(config.out, fitted, provenance)
    return provenance, shape


def tune(config: TuneConfig, on_progress: Callable[[int, int], None]) -> TuningReport:
    """Search for the tilt and step size of a layer's nodes on Ray Tune.

    Raises:
        InputError: if a setting, the network or a node is wrong, or the nodes are of several layers.
    """
    from raygen.cluster import session  # noqa: PLC0415  (only here Ray is needed)
    from raygen.cluster.tune import Search, search  # noqa: PLC0415

    network = load_network(NetworkSettings.part_of(config))
    nodes = parse_nodes(config.nodes, network, list_layers(network))
    layer = _one_layer(nodes, "tune")
    source = reference_source(config, network)
    if isinstance(source, SavedReference):
        check_saved(source, network, nodes, crop=config.crop)
    what = Search(
        out=config.out,
        network=network,
        images=source,
        # A trial is judged by its samples.
        settings=SamplingSettings.part_of(config).model_copy(update={"log_z": False}),
        layer=layer,
        nodes=tuple(map(str, nodes)),
        contrasts=config.contrasts,
        step_sizes=config.step_sizes,
    )
    with session(config.address):
        return search(what, actors=config.actors, threads=config.threads, gpus=config.gpus, on_progress=on_progress)


def pipeline(
    config: PipelineConfig,
    *,
    on_epoch: Callable[[EpochReport], None],
    on_trained: Callable[[TrainingFolder], None],
    on_progress: Callable[[FarmReport], None],
) -> Sampled:
    """Pretrain a network and sample its nodes, in one folder and one session.

    Raises:
        InputError, UnfinishedError: as its stages do.
    """
    from raygen.cluster import session  # noqa: PLC0415  (only here Ray is needed)

    with session(config.address):
        folder = pretrain(config.pretraining, on_epoch)
        on_trained(folder)
        return sample(config.sampling(folder.network), on_progress)


def gallery(place: str) -> GallerySummary:
    """Make the pages of the run at ``place``."""
    return build_gallery(Run.open(place))


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


def about() -> dict[str, str]:
    """Return the versions that a run is told with."""
    return {
        "raygen": raygen.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }


def _farm(
    config: SampleConfig,
    run: Run,
    network: Network,
    images: Source,
    profile: Profile,
    on_progress: Callable[[FarmReport], None],
) -> FarmReport:
    units = run.units()
    if len(units) == len(run.done()):
        return FarmReport(len(units), len(units), (), (), 0, {}, 0.0)
    from raygen.cluster import Farm, farm_actors, session  # noqa: PLC0415  (only here Ray is needed)

    with session(config.address):
        actors = farm_actors(config.actors, threads=config.threads, gpus=config.gpus)
        farm = Farm(
            run, network, images, SamplingSettings.part_of(config),
            profile=profile, actors=actors, threads=config.threads, gpus=config.gpus,
        )  # fmt: skip
        return farm.run(on_progress)


def _one_layer(nodes: tuple[Node, ...], verb: str) -> str:
    layers = list(dict.fromkeys(node.layer for node in nodes))
    if len(layers) > 1 or any(node.ending for node in nodes):
        raise SettingsError(f"nodes of {', '.join(layers)}", where="nodes",
                            right=f"{verb} the nodes of one layer, without positions, @mean or @relu")  # fmt: skip
    return layers[0]
