"""Sampling: planned, done on a farm of Ray actors or in this process, or traced."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from raygen.config import SampleConfig
from raygen.errors import UnfinishedError
from raygen.hmc import Groups
from raygen.process import keep_freed_memory
from raygen.runs import FarmReport, PlanReport, StatusWriter, estimate_cost, sample_here, trace_nodes
from raygen.sampling import UnitSampler
from raygen.stages.facts import while_held
from raygen.stages.requests import Request, begin, read_request
from raygen.store import Run


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
    what = read_request(config)
    with Run.lock(config.out) as lock:
        return sample_request(config, what, while_held(lock, on_progress))


def plan(config: SampleConfig, on_layer: Callable[[str], None] | None = None) -> PlanReport:
    """Begin the run that ``sample`` would, and estimate what it will cost; nothing is sampled.

    Args:
        config: as of ``sample``.
        on_layer: told of each layer before it is measured.

    Raises:
        InputError: as ``sample`` does.
    """
    what = read_request(config)
    with nullcontext() if Run.is_begun(config.out) else Run.lock(config.out):
        run = begin(config, what)
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    return estimate_cost(run, what.network, what.settings, what.images, _device(config), what.profile, on_layer)


def sample_request(config: SampleConfig, what: Request, on_progress: Callable[[FarmReport], None]) -> Sampled:
    """Sample what was read from ``config``, in a folder that this process holds.

    Raises:
        InputError, UnfinishedError: as ``sample`` does.
    """
    run = begin(config, what)
    status = StatusWriter(run.location, on_progress)
    if config.local:
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        sampler = UnitSampler(what.network, what.settings, what.images, _device(config), what.profile)
        report = sample_here(run, sampler, status, save_every=config.save_every)
    else:
        report = _farm(config, run, what, status)
    if report.made.units or report.set_aside:
        status.write(report)
    if report.set_aside:
        unit, reason = next(iter(report.set_aside.items()))
        raise UnfinishedError(
            f"{config.out}: {report.lost} of {report.units} units were set aside, "
            f"{', '.join(sorted(report.set_aside)[:5])}; {unit}: {reason}"
        )
    return Sampled(run, report)


def _farm(config: SampleConfig, run: Run, what: Request, on_progress: Callable[[FarmReport], None]) -> FarmReport:
    plan = run.plan
    done = run.done_in(plan)
    if all(done):
        return FarmReport(len(plan), len(plan), {}, (), 0, {}, 0.0)
    from raygen.cluster import Farm, pool_size, sampling_kind, session  # noqa: PLC0415  (only here Ray is needed)

    with session(config.address):
        size = pool_size(config.actors, config.max_actors, threads=config.threads, gpus=config.gpus)
        kind = sampling_kind(
            run, what.network, what.images, what.settings,
            profile=what.profile, threads=config.threads, gpus=config.gpus, save_every=config.save_every,
        )  # fmt: skip
        return Farm(plan, done, kind, size=size, deadline=config.deadline, name=config.out).run(on_progress)


def trace(config: SampleConfig) -> dict[str, Groups]:
    """Draw in this process, without images, the chains that ``sample`` draws; nothing is written, ``out`` is not read.

    Returns:
        By node: what ArviZ reads, see ``raygen.sampling.trace_nodes``.

    Raises:
        InputError: if a setting, the network or a node is wrong.
    """
    what = read_request(config)
    return trace_nodes(
        what.network, what.nodes, what.settings, images=what.images, device=_device(config), profile=what.profile
    )


def _device(config: SampleConfig) -> torch.device:
    return torch.device("cuda" if config.gpus > 0 else "cpu")
