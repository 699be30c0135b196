"""The stages as functions, each with the configuration of its command: pretrain, sample, tune, gallery.

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
from raygen.config import PipelineConfig, PretrainConfig, SampleConfig, TuneConfig, read_mapping
from raygen.data import DataSettings, load_data
from raygen.errors import SettingsError, UnfinishedError
from raygen.gallery import GallerySummary, build_gallery
from raygen.networks import Network, NetworkSettings, Node, list_layers, load_network, parse_nodes
from raygen.sampling import (
    FarmReport,
    Profile,
    SamplingSettings,
    UnitSampler,
    begin_run,
    keep_freed_memory,
    sample_here,
)
from raygen.store import Run
from raygen.training import EpochReport, TrainingFolder, TrainingSettings

if TYPE_CHECKING:
    from raygen.cluster.tune import TuningReport
    from raygen.data import ImageSet

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
    images = reference_images(config, network)
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


def tune(config: TuneConfig, on_progress: Callable[[int, int], None]) -> TuningReport:
    """Search for the tilt and step size of a layer's nodes on Ray Tune.

    Raises:
        InputError: if a setting, the network or a node is wrong, or the nodes are of several layers.
    """
    from raygen.cluster import session  # noqa: PLC0415  (only here Ray is needed)
    from raygen.cluster.tune import Search, search  # noqa: PLC0415

    network = load_network(NetworkSettings.part_of(config))
    nodes = parse_nodes(config.nodes, network, list_layers(network))
    layer = _one_layer(nodes)
    what = Search(
        out=config.out,
        network=network,
        images=reference_images(config, network),
        settings=SamplingSettings.part_of(config),
        layer=layer,
        channels=tuple(node.channel for node in nodes),
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


def reference_images(config: SampleConfig | TuneConfig, network: Network) -> ImageSet | None:
    """Return the images that a fitted reference is fitted to; None for another reference."""
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
    images: ImageSet | None,
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


def _one_layer(nodes: tuple[Node, ...]) -> str:
    layers = list(dict.fromkeys(node.layer for node in nodes))
    if len(layers) > 1 or any(node.position for node in nodes):
        raise SettingsError(f"nodes of {', '.join(layers)}", where="nodes",
                            right="tune the nodes of one layer, without positions")  # fmt: skip
    return layers[0]
