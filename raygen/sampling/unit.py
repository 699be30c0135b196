"""The chains of one unit: score, reference, warm-up, draws, rows. No Ray, no storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch

from raygen.data import ImageSet
from raygen.errors import ScoreError
from raygen.hmc import (
    ChainState,
    Diagnostics,
    Parameters,
    StepInfo,
    Streams,
    TiltRule,
    begin,
    diagnose,
    draw,
    potential,
    warm_up,
)
from raygen.networks import Cut, Layer, Network, Node, NodeScores, cut_network, list_layers, node_label
from raygen.sampling.reference import make_reference
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
        fraction: of its trajectories made.
        acceptance: mean acceptance probability of the last trajectory; NaN before the first.
    """

    fraction: float
    acceptance: float


class UnitSampler:
    """Samples units of one network; keeps the cut of the last layer and the references, which cost time to make.

    Args:
        network: whose nodes are sampled.
        settings: what decides the samples.
        images: what a fitted reference is fitted to; of the network's input shape.
        device: where the chains live.
        profile: by layer, contrast, tilt or step size that go before the settings'.
    """

    def __init__(
        self,
        network: Network,
        settings: SamplingSettings,
        images: ImageSet | None,
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
        self._cut_as: tuple[str, bool] | None = None
        self._references: dict[tuple[int, int, int], Reference] = {}

    def sample(self, unit: Unit, on_progress: Callable[[UnitProgress], None] | None = None) -> pa.Table:
        """Return the samples of a unit, of schema ``SAMPLES``.

        Raises:
            ScoreError: naming the node, if its score is not finite, or has no gradient, where its chains start.
        """
        try:
            return self._sample(unit, on_progress)
        except ScoreError as error:
            if error.row is None:
                raise
            node = _nodes(unit)[error.row // unit.chains]
            raise ScoreError(error.what, where=f"node {node}", right=error.right) from None

    def _sample(self, unit: Unit, on_progress: Callable[[UnitProgress], None] | None) -> pa.Table:
        settings = _with_profile(self._settings, self._profile.get(unit.layer, {}))
        kernel = settings.make_kernel()
        report = _Reporter(settings.warm_up + settings.iterations, on_progress)
        scores = self._scores(unit)
        target = self._target(scores)
        shape = target.reference.shape
        streams = Streams(tuple(f"{settings.seed}/{node}" for node in _nodes(unit)), unit.chains, self._device)
        state = kernel.init(target, streams.start(shape))
        rule = _tilt_rule(settings, len(unit.channels), target.reference, state)
        warm = begin(settings.make_warm_up(), kernel, state, rule)
        state, parameters = warm_up(
            settings.make_warm_up(), kernel, target, streams, warm,
            on_step=lambda _, info: report(float(info.acceptance.mean())),
        )  # fmt: skip
        draws: list[Draw] = []

        def on_step(count: int, state: ChainState, info: StepInfo) -> None:
            report(float(info.acceptance.mean()))
            if count % settings.thin == 0:
                draws.append(self._keep(state, parameters, target.reference, scores))

        state, trace = draw(
            kernel, target, state, parameters, streams,
            first=settings.warm_up, iterations=settings.iterations, on_step=on_step,
        )  # fmt: skip
        facts = [
            self._facts(node, found) for node, found in zip(_nodes(unit), diagnose(trace, unit.chains), strict=True)
        ]
        return make_rows(facts, draws, trace, parameters, gradients=settings.gradients, seed=settings.seed)

    def _scores(self, unit: Unit) -> NodeScores:
        # A position is one of the whole map, which a crop to the receptive field does not have.
        wanted = unit.layer, self._settings.crop and unit.position is None
        if self._cut is None or self._cut_as != wanted:
            self._cut, self._cut_as = cut_network(self._network, unit.layer, crop=wanted[1]), wanted
        channels = torch.tensor(unit.channels).repeat_interleave(unit.chains)
        return NodeScores(self._cut, channels, unit.position).to(self._device)

    def _target(self, scores: NodeScores) -> WhitenedScore:
        shape = scores.cut.input_shape
        if shape not in self._references:
            reference = make_reference(self._settings, shape, self._network, self._images)
            self._references[shape] = reference.to(self._device)
        force = None if self._settings.forces == "float32" else scores.with_precision(self._settings.forces)
        return WhitenedScore(scores, self._references[shape], force=force)

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

    def _facts(self, node: Node, found: Diagnostics) -> NodeFacts:
        return NodeFacts(
            model=self._network.name,
            node=str(node),
            layer=node.layer,
            channel=node.channel,
            class_name=node_label(node, self._network, self._layers),
            converged=found.converged(r_hat=self._settings.r_hat, ess=self._settings.ess),
            diagnostics=found,
        )


class _Reporter:
    """Counts trajectories and passes the fraction on."""

    def __init__(self, total: int, on_progress: Callable[[UnitProgress], None] | None) -> None:
        self._total = total
        self._made = 0
        self._on_progress = on_progress

    def __call__(self, acceptance: float) -> None:
        self._made += 1
        if self._on_progress is not None:
            self._on_progress(UnitProgress(self._made / self._total, acceptance))


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
    return [Node(unit.layer, channel, unit.position) for channel in unit.channels]
