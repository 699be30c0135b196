"""Sampling, on a farm of Ray actors or in this process, and what prepares it: a plan, a reference, tuning."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
import torchvision

import raygen
from raygen.config import ReferenceConfig, SampleConfig, TuneConfig, read_mapping
from raygen.data import DataSettings, load_data
from raygen.errors import SettingsError, StoreError, UnfinishedError
from raygen.hmc import Groups
from raygen.networks import (
    Network,
    NetworkSettings,
    check_alone,
    cut_for,
    list_layers,
    load_network,
    parse_nodes,
)
from raygen.notation import Node
from raygen.process import keep_freed_memory
from raygen.runs import FarmReport, PlanReport, StatusWriter, begin_run, estimate_cost, sample_here, trace_nodes
from raygen.sampling import (
    Profile,
    SamplingSettings,
    SavedReference,
    Source,
    UnitSampler,
    check_saved,
    fit_reference,
)
from raygen.stages.defaults import load_sampled, sampling_settings
from raygen.storage import title_of
from raygen.store import Lock, Run
from raygen.tilting import FitSettings, Provenance, save_reference

if TYPE_CHECKING:
    from raygen.cluster import TuningReport

Report = TypeVar("Report")

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


@dataclass(frozen=True)
class Sampled:
    """What sampling leaves: the run, and how it went."""

    run: Run
    report: FarmReport


def sample(config: SampleConfig, on_progress: Callable[[FarmReport], None]) -> Sampled:
    """Sample nodes, on a farm of Ray actors or, if ``local``, in this process.

    Raises:
        InputError: if a setting, the network, a node or the folder is wrong, or another process works in the folder.
        UnfinishedError: if units were set aside; the others are committed.
    """
    if config.local:
        _device(config)
    request = read_request(config)
    with Run.lock(config.out) as lock:
        return sample_request(config, request, while_held(lock, on_progress))


def sample_module(config: SampleConfig, network: Network, on_progress: Callable[[FarmReport], None]) -> Sampled:
    """Do as ``sample`` does, in this process, with a network that is there already.

    Raises:
        InputError: as ``sample`` does.
    """
    request = _request_of(config, network)
    with Run.lock(config.out) as lock:
        return sample_request(config, request, while_held(lock, on_progress))


def plan(config: SampleConfig, on_layer: Callable[[str], None] | None = None) -> PlanReport:
    """Begin the run that ``sample`` would, and estimate what it will cost; nothing is sampled.

    Args:
        config: as of ``sample``.
        on_layer: called with the name of each layer before it is measured.

    Raises:
        InputError: as ``sample`` does.
    """
    device = _device(config)
    request = read_request(config)
    with nullcontext() if Run.is_begun(config.out) else Run.lock(config.out):
        run = _begin(config, request)
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    return estimate_cost(run, request.network, request.settings, request.images, device, request.profile, on_layer)


def trace(config: SampleConfig) -> dict[str, Groups]:
    """Draw in this process, without images, the chains that ``sample`` draws; nothing is written, ``out`` is not read.

    Returns:
        By node: what ArviZ reads, see ``raygen.runs.trace_nodes``.

    Raises:
        InputError: if a setting, the network or a node is wrong.
    """
    _refuse_modes(config, "trace")
    device = _device(config)
    request = read_request(config)
    return trace_nodes(
        request.network, request.nodes, request.settings,
        images=request.images, device=device, profile=request.profile,
    )  # fmt: skip


def reference(config: ReferenceConfig) -> tuple[Provenance, tuple[int, int, int]]:
    """Fit a reference to images, in a network's input units, and write it to a file.

    Returns:
        What it was fitted to, and its (C, H, W).

    Raises:
        InputError: if a setting, the network, a node or the data is wrong, or the file cannot be written.
    """
    settings = NetworkSettings.part_of(config)
    # Weights decide nothing here, but a file of them may say which network it is.
    network = load_network(settings.model_copy(update={"weights": settings.weights or "random"}))
    shape = network.input_shape
    if config.nodes is not None:
        nodes = parse_nodes(config.nodes, network, list_layers(network))
        _one_layer(nodes, "give")
        shape = cut_for(network, nodes[0], crop=config.crop).input_shape
    images = load_data(DataSettings.part_of(config), network.input_shape)[0]
    fitted, provenance = fit_reference(FitSettings.part_of(config), shape, network, images)
    save_reference(config.out, fitted, provenance)
    return provenance, shape


def tune(config: TuneConfig, on_progress: Callable[[int, int], None]) -> TuningReport:
    """Search for the tilt and step size of a layer's nodes on Ray Tune.

    Raises:
        InputError: if a setting, the network or a node is wrong, or the nodes are of several layers.
    """
    from raygen.cluster import Search, search, session  # noqa: PLC0415  (only here Ray is needed)

    _refuse_modes(config, "tune")
    network = load_sampled(config, config.nodes)
    nodes = parse_nodes(config.nodes, network, list_layers(network))
    layer = _one_layer(nodes, "tune")
    check_alone(network, [layer])
    source = reference_source(config, network)
    if isinstance(source, SavedReference):
        check_saved(source, network, nodes, crop=config.crop)
    what = Search(
        out=config.out,
        network=network,
        images=source,
        # A trial is judged by its samples, and trials are compared: all are of one length.
        settings=sampling_settings(config, network, nodes).model_copy(update={"log_z": False, "budget": None}),
        layer=layer,
        nodes=tuple(map(str, nodes)),
        contrasts=config.contrasts,
        step_sizes=config.step_sizes,
    )
    with session(config.address):
        return search(what, actors=config.actors, threads=config.threads, gpus=config.gpus, on_progress=on_progress)


def read_request(config: SampleConfig) -> Request:
    """Load the network, the nodes, the images and the profile that a configuration names.

    Raises:
        InputError: if one of them is wrong.
    """
    return _request_of(config, load_sampled(config, config.nodes))


def _request_of(config: SampleConfig, network: Network) -> Request:
    nodes = parse_nodes(config.nodes, network, list_layers(network))
    check_alone(network, sorted({node.layer for node in nodes}))
    profile = {} if config.profile is None else read_profile(config.profile, network)
    settings = sampling_settings(config, network, nodes)
    return Request(network, nodes, settings, reference_source(config, network), profile)


def read_profile(file: str, network: Network) -> Profile:
    """Return the settings by layer that ``raygen tune`` found.

    Raises:
        SettingsError: if the file is no profile, or one of another network.
    """
    document = read_mapping(file)
    layers = document.get("layers")
    if not isinstance(layers, dict) or not all(
        isinstance(layer, str) and isinstance(values, dict) and set(values) <= _PROFILED
        for layer, values in layers.items()
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
    if config.reference != "fitted":  # which is no network's default
        return None
    return load_data(DataSettings.part_of(config), network.input_shape)[0]


def sample_request(config: SampleConfig, request: Request, on_progress: Callable[[FarmReport], None]) -> Sampled:
    """Sample what was read from ``config``, in a folder that this process holds.

    Raises:
        InputError, UnfinishedError: as ``sample`` does.
    """
    run = _begin(config, request)
    before = sum(run.sizes().values())
    status = StatusWriter(run.location, on_progress)
    report = _sample_here(config, run, request, status) if config.local else _farm(config, run, request, status)
    if report.made.units or report.set_aside:
        status.write(report)
    if report.set_aside:
        unit, reason = next(iter(report.set_aside.items()))
        raise UnfinishedError(
            f"{run.location.title}: {report.lost} of {report.units} units were set aside, "
            f"{', '.join(sorted(report.set_aside)[:5])}; {unit}: {reason}"
        )
    _check_stored(run, config.out, report, before + report.made.size)
    return Sampled(run, report)


def _check_stored(run: Run, folder: str, report: FarmReport, size: int) -> None:
    """Look once more for what was committed, in one listing: somebody may have removed it since.

    Args:
        run: as it was begun.
        folder: that the user named.
        report: the last one; no unit was set aside.
        size: bytes that the samples have at least.

    Raises:
        UnfinishedError: naming what is gone.
    """
    try:
        again = Run.open(folder)
        plan = again.plan
        sizes = again.sizes()
    except StoreError as error:
        raise UnfinishedError(f"{run.location.title}: the run has lost what says what it is: {error.what}") from error
    if gone := [unit.name for unit in plan if unit.path not in sizes]:
        raise UnfinishedError(
            f"{run.location.title}: {len(gone)} of {report.units} units were committed and are gone, "
            f"{', '.join(gone[:5])}; run the same command again, which makes them"
        )
    if empty := [unit.name for unit in plan if not sizes[unit.path]]:
        raise UnfinishedError(
            f"{run.location.title}: {len(empty)} of {report.units} units have empty files, {', '.join(empty[:5])}; "
            "raygen verify --mend removes them, and the same command makes them again"
        )
    if sum(sizes.values()) < size:
        raise UnfinishedError(f"{run.location.title}: the samples hold {sum(sizes.values()):,} bytes, written were "
                              f"{size:,}; raygen verify names the file, and verify --mend removes it")  # fmt: skip


def about() -> dict[str, str]:
    """Return the versions that a run keeps beside what was asked."""
    return {
        "raygen": raygen.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }


def while_held(lock: Lock, on_report: Callable[[Report], None]) -> Callable[[Report], None]:
    """Return what passes reports on to ``on_report``, and raises once this process no longer holds the folder."""

    def pass_on(report: Report) -> None:
        lock.check()
        on_report(report)

    return pass_on


def _begin(config: SampleConfig, request: Request) -> Run:
    """Begin the run that a configuration asks for, or continue it.

    Raises:
        InputError: as ``raygen.runs.begin_run`` does.
    """
    facts = {**about(), **({"weights": config.weights} if config.weights else {})}
    return begin_run(
        config.out, request.network, request.nodes, request.settings,
        images=request.images, about=facts, profile=request.profile,
    )  # fmt: skip


def _sample_here(config: SampleConfig, run: Run, request: Request, status: StatusWriter) -> FarmReport:
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    sampler = UnitSampler(request.network, request.settings, request.images, _device(config), request.profile)
    return sample_here(run, sampler, status, save_every=config.save_every)


def _farm(config: SampleConfig, run: Run, request: Request, on_progress: Callable[[FarmReport], None]) -> FarmReport:
    units = run.plan
    done = run.done(units)
    if all(done):
        return FarmReport(len(units), len(units), {}, (), 0, {}, 0.0)
    from raygen.cluster import Farm, pool_size, sampling_kind, session  # noqa: PLC0415  (only here Ray is needed)

    with session(config.address):
        size = pool_size(config.actors, config.max_actors, threads=config.threads, gpus=config.gpus)
        kind = sampling_kind(
            run, request.network, request.images, request.settings,
            profile=request.profile, threads=config.threads, gpus=config.gpus, save_every=config.save_every,
        )  # fmt: skip
        return Farm(units, done, kind, size=size, deadline=config.deadline, name=title_of(config.out)).run(on_progress)


def _refuse_modes(config: SamplingSettings, what: str) -> None:
    """Refuse modes where chains are to be moved.

    Raises:
        SettingsError: if modes are asked for.
    """
    if config.mode_steps is not None:
        raise SettingsError(f"{what} with mode_steps, which moves no chains", where="mode_steps", right="leave it out")


def _one_layer(nodes: tuple[Node, ...], verb: str) -> str:
    """Return the layer that all nodes are of; ``verb`` says what is done with them.

    Raises:
        SettingsError: if there are several, or a node has an ending.
    """
    layers = list(dict.fromkeys(node.layer for node in nodes))
    if len(layers) > 1 or any(node.ending for node in nodes):
        raise SettingsError(f"nodes of {', '.join(layers)}", where="nodes",
                            right=f"{verb} the nodes of one layer, without positions, @mean or @relu")  # fmt: skip
    return layers[0]


def _device(config: SampleConfig) -> torch.device:
    """Return the device of chains in this process.

    Raises:
        SettingsError: if it is a GPU, and there is none.
    """
    if config.gpus > 0 and not torch.cuda.is_available():
        raise SettingsError("this machine has no GPU", where="gpus", right="give --gpus 0, or a machine that has one")
    return torch.device("cuda" if config.gpus > 0 else "cpu")
