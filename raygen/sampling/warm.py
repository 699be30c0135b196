"""A unit's chains, warmed up: what they are drawn with from then on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raygen.errors import ScoreError
from raygen.hmc import (
    ChainState,
    Kernel,
    Parameters,
    StepInfo,
    Streams,
    TiltRule,
    Trace,
    WarmUpState,
    begin,
    draw,
    warm_up,
)
from raygen.networks import Node, NodeScores
from raygen.sampling.log_z import LogZ, estimate_log_z
from raygen.sampling.progress import Reporter
from raygen.sampling.settings import SamplingSettings
from raygen.sampling.targets import Targets
from raygen.tilting import ContrastTilt, FixedTilt, Reference, WhitenedScore


@dataclass(frozen=True)
class WarmChains:
    """A unit's chains at the end of warm-up, and all that moves them on.

    Attributes:
        settings: of this unit: the profile's go before the run's.
        kernel, scores, density, streams: as they were in warm-up.
        state, parameters: at its end.
        spent: gradients of each chain so far, (N,) int64.
    """

    settings: SamplingSettings
    kernel: Kernel
    scores: NodeScores
    density: WhitenedScore
    streams: Streams
    state: ChainState
    parameters: Parameters
    spent: Tensor

    @property
    def gradients(self) -> list[int]:
        """Gradients of each chain, warm-up included."""
        steps = self.parameters.steps
        each = torch.full_like(self.spent, self.kernel.steps) if steps is None else steps
        gradients: list[int] = (self.spent + self.settings.iterations * each).tolist()
        return gradients

    def draw(self, on_step: Callable[[int, ChainState, StepInfo], None]) -> Trace:
        """Make all trajectories after warm-up; see :func:`raygen.hmc.draw`."""
        return draw(
            self.kernel, self.density, self.state, self.parameters, self.streams,
            first=self.settings.warm_up, iterations=self.settings.iterations, on_step=on_step,
        )[1]  # fmt: skip

    def log_z(self, on_fraction: Callable[[float], None]) -> list[LogZ]:
        """Estimate log Z of each node at its tilt."""
        return estimate_log_z(
            self.kernel, self.density, self.streams, self.parameters.tilt[:: self.streams.chains],
            self.density.reference.shape, rungs=self.settings.log_z_rungs, on_fraction=on_fraction,
        )  # fmt: skip


def warm_chains(
    targets: Targets, settings: SamplingSettings, nodes: Sequence[Node], chains: int, device: torch.device,
    report: Reporter,
) -> WarmChains:  # fmt: skip
    """Warm up the chains of nodes of one layer and ending.

    Args:
        targets: of the nodes' network.
        settings: of this unit.
        nodes: in the order of the batch.
        chains: of each node.
        device: where they live.
        report: told of each trajectory.

    Raises:
        ScoreError: naming the node, if its score is not finite, or has no gradient, where its chains start.
    """
    try:
        return _warm_up(targets, settings, nodes, chains, device, report)
    except ScoreError as error:
        if error.row is None:
            raise
        raise ScoreError(error.what, where=f"node {nodes[error.row // chains]}", right=error.right) from None


def _warm_up(
    targets: Targets, settings: SamplingSettings, nodes: Sequence[Node], chains: int, device: torch.device,
    report: Reporter,
) -> WarmChains:  # fmt: skip
    report.expect(settings.warm_up + settings.iterations)
    kernel, plan = settings.make_kernel(), settings.make_warm_up()
    scores = targets.scores(nodes, chains)
    density = targets.density(scores)
    streams = node_streams(settings, nodes, chains, device)
    state = kernel.init(density, streams.start(density.reference.shape, settings.superchains))
    first = begin(plan, kernel, state, _tilt_rule(settings, len(nodes), density.reference, state))
    spent = torch.zeros(len(scores.channels), dtype=torch.int64)

    def on_step(_state: WarmUpState, info: StepInfo) -> None:
        spent.add_(info.steps)
        report(float(info.acceptance.mean()))

    state, parameters = warm_up(plan, kernel, density, streams, first, on_step)
    return WarmChains(settings, kernel, scores, density, streams, state, parameters, spent)


def node_streams(settings: SamplingSettings, nodes: Sequence[Node], chains: int, device: torch.device) -> Streams:
    """Return the random numbers of nodes' chains, which depend on the run's seed and each node's name alone."""
    return Streams(tuple(f"{settings.seed}/{node}" for node in nodes), chains, device)


def _tilt_rule(settings: SamplingSettings, nodes: int, reference: Reference, state: ChainState) -> TiltRule:
    if settings.tilt is not None:
        return FixedTilt(state.score.new_full((nodes,), settings.tilt))
    assert settings.contrast is not None  # the settings see to it
    return ContrastTilt.begin(settings.contrast, reference, state.gradient, nodes)
