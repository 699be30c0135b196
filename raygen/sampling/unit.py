"""The chains of one unit: score, reference, warm-up, draws, rows. No Ray, no storage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raygen.errors import ScoreError
from raygen.hmc import (
    ChainState,
    Diagnostics,
    Kernel,
    Parameters,
    StepInfo,
    Streams,
    TiltRule,
    Trace,
    WarmUpState,
    begin,
    diagnose,
    draw,
    potential,
    to_arviz,
    warm_up,
)
from raygen.hmc.export import Groups
from raygen.networks import (
    Cut,
    Layer,
    Network,
    Node,
    NodeScores,
    cut_for,
    list_layers,
    node_label,
    read_node,
    score_nodes,
)
from raygen.sampling.convergence import converged
from raygen.sampling.log_z import LogZ, estimate_log_z
from raygen.sampling.quiet import UNKNOWN, find_quiet, no_trace
from raygen.sampling.reference import Source, make_reference
from raygen.sampling.rows import Draw, NodeFacts, encode_images, make_rows
from raygen.sampling.settings import SamplingSettings
from raygen.store import Unit
from raygen.tilting import ContrastTilt, FixedTilt, Reference, WhitenedScore, signal

Profile = Mapping[str, Mapping[str, float]]
"""Settings by layer, as ``raygen tune`` finds them."""


@dataclass(frozen=True)
class UnitProgress:
    """How far a unit is.

    Attributes:
        fraction: of its trajectories made; with log Z, its chains are half of it.
        acceptance: mean acceptance probability of the last trajectory; NaN before the first, and for log Z.
    """

    fraction: float
    acceptance: float


@dataclass(frozen=True)
class UnitTrace:
    """The chains of a unit after warm-up, in numbers.

    Attributes:
        nodes: in the order of the batch.
        trace: of all chains, those of a node side by side.
        parameters: that they were drawn with.
        steps: gradients of a trajectory, where the parameters do not give each chain its own.
    """

    nodes: tuple[Node, ...]
    trace: Trace
    parameters: Parameters
    steps: int

    def to_arviz(self) -> dict[str, Groups]:
        """Return each node's chains, by its name, as ``raygen.hmc.to_arviz`` does."""
        chains = self.trace.score.shape[1] // len(self.nodes)
        return {
            str(node): to_arviz(self.trace, chains, place, parameters=self.parameters, steps=self.steps)
            for place, node in enumerate(self.nodes)
        }


@dataclass(frozen=True)
class _Warm:
    """A unit's chains at the end of warm-up, and all that moves them on."""

    settings: SamplingSettings
    kernel: Kernel
    scores: NodeScores
    target: WhitenedScore
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
        return draw(
            self.kernel, self.target, self.state, self.parameters, self.streams,
            first=self.settings.warm_up, iterations=self.settings.iterations, on_step=on_step,
        )[1]  # fmt: skip

    def log_z(self, on_fraction: Callable[[float], None]) -> list[LogZ]:
        return estimate_log_z(
            self.kernel, self.target, self.streams, self.parameters.tilt[:: self.streams.chains],
            self.target.reference.shape, rungs=self.settings.log_z_rungs, on_fraction=on_fraction,
        )  # fmt: skip


class UnitSampler:
    """Samples units of one network; keeps the cut of the last layer and the references, which cost time to make.

    Args:
        network: whose nodes are sampled.
        settings: what decides the samples.
        images: what the reference is fitted to, of the network's input shape, or a saved reference; None for noise.
        device: where the chains live.
        profile: by layer, contrast, tilt or step size that go before the settings'.
    """

    def __init__(
        self,
        network: Network,
        settings: SamplingSettings,
        images: Source,
        device: torch.device,
        profile: Profile | None = None,
    ) -> None:
        self._network = network
        self._settings = settings
        self._profile = profile or {}
        self._images = images
        self._device = device
        self._layers: tuple[Layer, ...] = list_layers(network)
        self._cut: Cut | None = None
        self._cut_as: tuple[str, str] | None = None
        self._references: dict[tuple[int, int, int], Reference] = {}

    def sample(self, unit: Unit, on_progress: Callable[[UnitProgress], None] | None = None) -> pa.Table:
        """Return the samples of a unit, of schema ``SAMPLES``; of constant and dead nodes the reference's, marked.

        Raises:
            ScoreError: naming the node, if its score is not finite, or has no gradient, where its chains start.
        """
        nodes = _nodes(unit)
        cut = self._cut_of(nodes[0])
        quiet = find_quiet(cut, nodes, self._reference(cut.input_shape), seed=self._settings.seed)
        lively = replace(unit, nodes=tuple(str(node) for node in nodes if node not in quiet))
        tables = [self._marked(node, reason, unit.chains) for node, reason in quiet.items()]
        if lively.nodes:
            tables.append(self._sample(lively, on_progress))
        place = {str(node): index for index, node in enumerate(nodes)}
        rows = pa.concat_tables(tables)
        order = np.argsort([place[name] for name in rows["node"].to_pylist()], kind="stable")
        return rows.take(pa.array(order))

    def _marked(self, node: Node, reason: str, chains: int) -> pa.Table:
        """Return a row for each chain of a node that is not sampled: where the chain would have started."""
        cut = self._cut_of(node)
        scores = score_nodes(cut, [node], chains).to(self._device)
        target = WhitenedScore(scores, self._reference(cut.input_shape))
        streams = Streams((f"{self._settings.seed}/{node}",), chains, self._device)
        state = Kernel().init(target, streams.start(target.reference.shape))
        trace, parameters = no_trace(chains)
        facts = replace(self._facts(node, UNKNOWN, agree=False, log_z=None), quiet=reason)
        draws = [self._keep(state, parameters, target.reference, scores)]
        return make_rows([facts], draws, trace, parameters, gradients=[0] * chains, seed=self._settings.seed)

    def _sample(self, unit: Unit, on_progress: Callable[[UnitProgress], None] | None) -> pa.Table:
        report = _Reporter(2 if self._settings.log_z else 1, on_progress)
        warm = self._warm(unit, report)
        settings, draws = warm.settings, list[Draw]()

        def on_step(count: int, state: ChainState, info: StepInfo) -> None:
            report(float(info.acceptance.mean()))
            if count % settings.thin == 0:
                draws.append(self._keep(state, warm.parameters, warm.target.reference, warm.scores))

        trace = warm.draw(on_step)
        found = diagnose(trace, unit.chains, settings.superchains)
        agree = converged(found, trace, unit.chains, settings)
        log_z = warm.log_z(report.rest) if settings.log_z else [None] * len(found)
        facts = [self._facts(*node) for node in zip(_nodes(unit), found, agree, log_z, strict=True)]
        return make_rows(facts, draws, trace, warm.parameters, gradients=warm.gradients, seed=settings.seed)

    def trace(self, unit: Unit, on_progress: Callable[[UnitProgress], None] | None = None) -> UnitTrace:
        """Draw a unit's chains, the same as ``sample`` does, and return their trace instead of images.

        Raises:
            ScoreError: as ``sample`` does.
        """
        report = _Reporter(1, on_progress)
        warm = self._warm(unit, report)
        trace = warm.draw(lambda _count, _state, info: report(float(info.acceptance.mean())))
        return UnitTrace(tuple(_nodes(unit)), trace, warm.parameters, warm.kernel.steps)

    def _warm(self, unit: Unit, report: _Reporter) -> _Warm:
        try:
            return self._warm_up(unit, report)
        except ScoreError as error:
            if error.row is None:
                raise
            node = _nodes(unit)[error.row // unit.chains]
            raise ScoreError(error.what, where=f"node {node}", right=error.right) from None

    def _warm_up(self, unit: Unit, report: _Reporter) -> _Warm:
        settings = _with_profile(self._settings, self._profile.get(unit.layer, {}))
        report.expect(settings.warm_up + settings.iterations)
        kernel = settings.make_kernel()
        scores = self._scores(unit)
        target = self._target(scores)
        streams = Streams(tuple(f"{settings.seed}/{node}" for node in _nodes(unit)), unit.chains, self._device)
        state = kernel.init(target, streams.start(target.reference.shape, settings.superchains))
        rule = _tilt_rule(settings, len(unit.nodes), target.reference, state)
        warm = begin(settings.make_warm_up(), kernel, state, rule)
        spent = torch.zeros(len(scores.channels), dtype=torch.int64)

        def on_step(_state: WarmUpState, info: StepInfo) -> None:
            spent.add_(info.steps)
            report(float(info.acceptance.mean()))

        state, parameters = warm_up(settings.make_warm_up(), kernel, target, streams, warm, on_step)
        return _Warm(settings, kernel, scores, target, streams, state, parameters, spent)

    def _scores(self, unit: Unit) -> NodeScores:
        nodes = _nodes(unit)
        return score_nodes(self._cut_of(nodes[0]), nodes, unit.chains).to(self._device)

    def _cut_of(self, node: Node) -> Cut:
        wanted = node.layer, node.ending
        if self._cut is None or self._cut_as != wanted:
            self._cut, self._cut_as = cut_for(self._network, node, crop=self._settings.crop), wanted
        return self._cut

    def _reference(self, shape: tuple[int, int, int]) -> Reference:
        if shape not in self._references:
            reference = make_reference(self._settings, shape, self._network, self._images)
            self._references[shape] = reference.to(self._device)
        return self._references[shape]

    def _target(self, scores: NodeScores) -> WhitenedScore:
        force = None if self._settings.forces == "float32" else scores.with_precision(self._settings.forces)
        return WhitenedScore(scores, self._reference(scores.cut.input_shape), force=force)

    def _keep(self, state: ChainState, parameters: Parameters, reference: Reference, scores: NodeScores) -> Draw:
        x = reference.image(state.position)
        with torch.no_grad():
            winner = scores.responses(x).argmax(1)
        images, low, high = encode_images(self._network.pixels(x))
        return Draw(
            images=images,
            low=low,
            high=high,
            score=state.score.cpu(),
            energy=potential(state, parameters.tilt).cpu(),
            winner=winner.cpu(),
            signal=signal(state.gradient, reference).cpu(),
        )

    def _facts(self, node: Node, found: Diagnostics, agree: bool, log_z: LogZ | None) -> NodeFacts:
        return NodeFacts(
            model=self._network.name,
            node=str(node),
            layer=node.layer,
            channel=node.channel,
            class_name=node_label(node, self._network, self._layers),
            converged=agree,
            diagnostics=found,
            log_z=log_z,
        )


class _Reporter:
    """Counts trajectories and passes the fraction on; where log Z follows, the chains count for half of the work."""

    def __init__(self, parts: int, on_progress: Callable[[UnitProgress], None] | None) -> None:
        self._parts = parts
        self._total = 1
        self._made = 0
        self._on_progress = on_progress

    def expect(self, total: int) -> None:
        self._total = total

    def __call__(self, acceptance: float) -> None:
        self._made += 1
        self._tell(self._made / self._total / self._parts, acceptance)

    def rest(self, fraction: float) -> None:
        self._tell((1 + fraction) / self._parts, math.nan)

    def _tell(self, fraction: float, acceptance: float) -> None:
        if self._on_progress is not None:
            self._on_progress(UnitProgress(fraction, acceptance))


def _with_profile(settings: SamplingSettings, profile: Mapping[str, float]) -> SamplingSettings:
    # The profile's contrast goes before a tilt given for all layers.
    update = {"tilt": None, **profile} if "contrast" in profile else dict(profile)
    return settings.model_copy(update=update)


def _tilt_rule(settings: SamplingSettings, nodes: int, reference: Reference, state: ChainState) -> TiltRule:
    if settings.tilt is not None:
        return FixedTilt(state.score.new_full((nodes,), settings.tilt))
    assert settings.contrast is not None  # the settings see to it
    return ContrastTilt.begin(settings.contrast, reference, state.gradient, nodes)


def _nodes(unit: Unit) -> list[Node]:
    return [read_node(text) for text in unit.nodes]
