"""The stages as functions, each with the configuration of its command: pretrain, reference, sample, tune, gallery.

``sample`` with ``local`` and everything about networks and data work without Ray; the others import it when they run.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torchvision

import raygen
from raygen.config import PipelineConfig, PretrainConfig, ReferenceConfig, SampleConfig, TuneConfig, read_mapping
from raygen.data import DataSettings, load_data, open_data
from raygen.data.loading import PICTURE_SETS
from raygen.errors import SettingsError, UnfinishedError
from raygen.gallery import GallerySummary, build_gallery
from raygen.hmc.export import Groups
from raygen.networks import Network, NetworkSettings, Node, cut_network, list_layers, load_network, parse_nodes
from raygen.sampling import (
    FarmReport,
    PlanReport,
    Profile,
    SamplingSettings,
    SavedReference,
    Source,
    StatusWriter,
    UnitSampler,
    begin_run,
    check_saved,
    fit_reference,
    keep_freed_memory,
    reckon,
    sample_here,
    trace_nodes,
)
from raygen.store import Lock, Run
from raygen.tilting import FitSettings, Provenance, save_reference
from raygen.training import EpochReport, TrainingFolder, TrainingSettings, TrainingTask, check_images, run_task

if TYPE_CHECKING:
    from raygen.cluster.tune import TuningReport

Part = TypeVar("Part", NetworkSettings, DataSettings)
Report = TypeVar("Report")

_PROFILED = {"contrast", "tilt", "step_size"}
"""What a profile may set for a layer."""


@dataclass(frozen=True)
class Sampled:
    """What sampling leaves: the run, and how it went."""

    run: Run
    report: FarmReport


def pretrain(config: PretrainConfig, on_epoch: Callable[[EpochReport], None]) -> TrainingFolder:
    """Train a network, on Ray Train or, if ``local``, in this process; go on where the same command was interrupted.

    Raises:
        InputError: if a setting, the data or the folder is wrong.
    """
    _check_gpus(config)
    # A worker may have another working directory.
    network = _absolute(NetworkSettings.part_of(config), "weights", "class_names")
    data = _absolute(DataSettings.part_of(config), "data_root")
    settings = TrainingSettings.part_of(config)
    request = _training_request(network, data, settings, config.seed)
    facts = {**about(), **({"recipe": config.recipe} if config.recipe else {})}
    with TrainingFolder.lock(config.out) as lock:
        folder = TrainingFolder.claim(config.out, request, about=facts)
        if not folder.finished:
            task = TrainingTask(folder, network, data, settings, config.seed, config.threads, config.gpus > 0)
            _train(task, config, _while_held(lock, on_epoch))
    return folder


def _train(task: TrainingTask, config: PretrainConfig, on_epoch: Callable[[EpochReport], None]) -> None:
    if config.local:
        run_task(task, on_epoch)
        return
    from raygen.cluster import pretrain as pretrain_on_ray  # noqa: PLC0415  (only here Ray is needed)
    from raygen.cluster import session, training_workers  # noqa: PLC0415

    with session(config.address):
        workers = training_workers(task, config.workers, config.max_workers)
        pretrain_on_ray(task, workers=workers, on_epoch=on_epoch)


def sample(config: SampleConfig, on_progress: Callable[[FarmReport], None]) -> Sampled:
    """Sample nodes, on a farm of Ray actors or, if ``local``, in this process.

    Raises:
        InputError: if a setting, the network, a node or the folder is wrong, or another process works in the folder.
        UnfinishedError: if units were set aside; the others are committed.
    """
    what = _asked(config)
    with Run.lock(config.out) as lock:
        return _sample(config, what, _while_held(lock, on_progress))


def plan(config: SampleConfig, on_layer: Callable[[str], None] | None = None) -> PlanReport:
    """Begin the run that ``sample`` would, and reckon what it will cost; nothing is sampled.

    Args:
        config: as of ``sample``.
        on_layer: told of each layer before it is measured.

    Raises:
        InputError: as ``sample`` does.
    """
    what = _asked(config)
    with nullcontext() if Run.is_begun(config.out) else Run.lock(config.out):
        run = _begin(config, what)
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    device = torch.device("cuda" if config.gpus > 0 else "cpu")
    return reckon(run, what.network, what.settings, what.images, device, what.profile, on_layer)


@dataclass(frozen=True)
class _Asked:
    """What a configuration of sampling names, loaded."""

    network: Network
    nodes: tuple[Node, ...]
    settings: SamplingSettings
    images: Source
    profile: Profile


def _asked(config: SampleConfig) -> _Asked:
    network = load_network(NetworkSettings.part_of(config))
    nodes = parse_nodes(config.nodes, network, list_layers(network))
    profile = {} if config.profile is None else read_profile(config.profile, network)
    return _Asked(network, nodes, SamplingSettings.part_of(config), reference_source(config, network), profile)


def _begin(config: SampleConfig, what: _Asked) -> Run:
    facts = {**about(), **({"weights": config.weights} if config.weights else {})}
    return begin_run(
        config.out, what.network, what.nodes, what.settings, images=what.images, about=facts, profile=what.profile
    )


def _sample(config: SampleConfig, what: _Asked, on_progress: Callable[[FarmReport], None]) -> Sampled:
    run = _begin(config, what)
    status = StatusWriter(run.location, on_progress)
    if config.local:
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        device = torch.device("cuda" if config.gpus > 0 else "cpu")
        sampler = UnitSampler(what.network, what.settings, what.images, device, what.profile)
        report = sample_here(run, sampler, status, save_every=config.save_every)
    else:
        report = _farm(config, run, what.network, what.images, what.profile, status)
    if report.made.units or report.set_aside:
        status.write(report)
    if report.set_aside:
        unit, reason = next(iter(report.set_aside.items()))
        raise UnfinishedError(
            f"{config.out}: {report.lost} of {report.units} units were set aside, "
            f"{', '.join(sorted(report.set_aside)[:5])}; {unit}: {reason}"
        )
    return Sampled(run, report)


def _while_held(lock: Lock, tell: Callable[[Report], None]) -> Callable[[Report], None]:
    """Return what passes on reports as long as the folder is this process's."""

    def pass_on(report: Report) -> None:
        lock.check()
        tell(report)

    return pass_on


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
        # A trial is judged by its samples, and trials are compared: all are of one length.
        settings=SamplingSettings.part_of(config).model_copy(update={"log_z": False, "budget": None}),
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
    with Run.lock(config.out) as lock, nullcontext() if config.local else _session(config.address):
        folder = pretrain(config.pretraining, on_epoch)
        on_trained(folder)
        second = config.sampling(folder.network)
        return _sample(second, _asked(second), _while_held(lock, on_progress))


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


def _training_request(
    network: NetworkSettings, data: DataSettings, settings: TrainingSettings, seed: int
) -> dict[str, Any]:
    """Return what decides the outcome; what is wrong with it is told here, not by every worker."""
    start = load_network(network.model_copy(update={"weights": network.weights or "random"}), seed=seed)
    # Pictures are listed, and not read.
    listed = data.model_copy(update={"stream": True}) if data.data in PICTURE_SETS else data
    train_set, test_set = open_data(listed, start.input_shape)
    check_images(start, train_set, test_set)
    return {
        "network": start.name,
        "arguments": network.arguments,
        "weights_hash": start.weights_hash,
        "input_shape": start.input_shape,
        "data": data.data,
        "limit": data.limit,
        "images": [len(train_set), len(test_set)],
        "image_column": data.image_column,
        "label_column": data.label_column,
        "augment": data.augment,
        "stream": data.stream,
        "settings": settings.model_dump(),
        "seed": seed,
    }


def _absolute(settings: Part, *names: str) -> Part:
    """Return settings whose local files have absolute paths."""
    found = {name: getattr(settings, name) for name in names}
    paths = {name: Path(text).absolute() for name, text in found.items() if text and "://" not in text}
    return settings.model_copy(update={name: str(path) for name, path in paths.items() if path.exists()})


def _check_gpus(config: PretrainConfig) -> None:
    if config.gpus not in (0, 1):
        raise SettingsError(f"{config.gpus:g} GPUs for a training worker, which takes one", where="gpus",
                            right="give 1, and as many workers as there are to be GPUs, or 0")  # fmt: skip
    if config.local and config.gpus and not torch.cuda.is_available():
        raise SettingsError("this machine has no GPU", where="gpus", right="give --gpus 0 to train on CPUs")


def _farm(
    config: SampleConfig,
    run: Run,
    network: Network,
    images: Source,
    profile: Profile,
    on_progress: Callable[[FarmReport], None],
) -> FarmReport:
    plan = run.plan
    done = run.done_in(plan)
    if all(done):
        return FarmReport(len(plan), len(plan), {}, (), 0, {}, 0.0)
    from raygen.cluster import Farm, pool_size, sampling_kind, session  # noqa: PLC0415  (only here Ray is needed)

    with session(config.address):
        size = pool_size(config.actors, config.max_actors, threads=config.threads, gpus=config.gpus)
        kind = sampling_kind(
            run, network, images, SamplingSettings.part_of(config),
            profile=profile, threads=config.threads, gpus=config.gpus, save_every=config.save_every,
        )  # fmt: skip
        return Farm(plan, done, kind, size=size, deadline=config.deadline, name=config.out).run(on_progress)


def _session(address: str | None) -> AbstractContextManager[None]:
    from raygen.cluster import session  # noqa: PLC0415  (only here Ray is needed)

    return session(address)


def _one_layer(nodes: tuple[Node, ...], verb: str) -> str:
    layers = list(dict.fromkeys(node.layer for node in nodes))
    if len(layers) > 1 or any(node.ending for node in nodes):
        raise SettingsError(f"nodes of {', '.join(layers)}", where="nodes",
                            right=f"{verb} the nodes of one layer, without positions, @mean or @relu")  # fmt: skip
    return layers[0]
