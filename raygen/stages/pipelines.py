"""All stages in one folder, and the pages of a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from raygen.config import PipelineConfig
from raygen.gallery import GallerySummary, build_gallery
from raygen.runs import FarmReport
from raygen.stages.facts import while_held
from raygen.stages.pretraining import pretrain
from raygen.stages.requests import read_request
from raygen.stages.sampling import Sampled, sample_request
from raygen.store import Run
from raygen.training import EpochReport, TrainingFolder


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
        return sample_request(second, read_request(second), while_held(lock, on_progress))


def _session(address: str | None) -> AbstractContextManager[None]:
    from raygen.cluster import session  # noqa: PLC0415  (only here Ray is needed)

    return session(address)


def gallery(place: str) -> GallerySummary:
    """Make the pages of the run at ``place``."""
    return build_gallery(Run.open(place))
