"""The chains of one unit: score, reference, warm-up, draws, rows. No Ray, no storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from raygen.hmc import ChainState, Diagnostics, Kernel, Parameters, StepInfo, Trace, diagnose, potential, to_arviz
from raygen.hmc.export import Groups
from raygen.networks import Layer, Network, Node, NodeScores, list_layers, node_label, read_node
from raygen.sampling.convergence import converged
from raygen.sampling.log_z import LogZ
from raygen.sampling.progress import Reporter, UnitProgress
from raygen.sampling.quiet import UNKNOWN, find_quiet, no_trace
from raygen.sampling.reference import Source
from raygen.sampling.rows import Draw, NodeFacts, encode_images, make_rows
from raygen.sampling.settings import SamplingSettings
from raygen.sampling.targets import Targets
from raygen.sampling.warm import WarmChains, node_streams, warm_chains
from raygen.store import Unit
from raygen.tilting import Reference, WhitenedScore, signal

Profile = Mapping[str, Mapping[str, float]]
"""Settings by layer, as ``raygen tune`` finds them."""


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


class UnitSampler:
    """Samples units of one network.

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
        self._device = device
        self._layers: tuple[Layer, ...] = list_layers(network)
        self._targets = Targets(network, settings, images, device)

    def sample(self, unit: Unit, on_progress: Callable[[UnitProgress], None] | None = None) -> pa.Table:
        """Return the samples of a unit, of schema ``SAMPLES``; of constant and dead nodes the reference's, marked.

        Raises:
            ScoreError: naming the node, if its score is not finite, or has no gradient, where its chains start.
        """
        nodes = _nodes(unit)
        cut = self._targets.cut(nodes[0])
        reference = self._targets.reference(cut.input_shape)
        quiet = find_quiet(cut, nodes, reference, seed=self._settings.seed, device=self._device)
        tables = [self._marked(node, reason, unit.chains) for node, reason in quiet.items()]
        if lively := [node for node in nodes if node not in quiet]:
            tables.append(self._sample(lively, unit.chains, on_progress))
        place = {str(node): index for index, node in enumerate(nodes)}
        rows = pa.concat_tables(tables)
        order = np.argsort([place[name] for name in rows["node"].to_pylist()], kind="stable")
        return rows.take(pa.array(order))

    def _marked(self, node: Node, reason: str, chains: int) -> pa.Table:
        """Return a row for each chain of a node that is not sampled: where the chain would have started."""
        scores = self._targets.scores([node], chains)
        reference = self._targets.reference(scores.cut.input_shape)
        streams = node_streams(self._settings, [node], chains, self._device)
        state = Kernel().init(WhitenedScore(scores, reference), streams.start(reference.shape))
        trace, parameters = no_trace(chains)
        facts = replace(self._facts(node, UNKNOWN, agree=False, log_z=None), quiet=reason)
        draws = [self._keep(state, parameters, reference, scores)]
        return make_rows([facts], draws, trace, parameters, gradients=[0] * chains, seed=self._settings.seed)

    def _sample(
        self, nodes: Sequence[Node], chains: int, on_progress: Callable[[UnitProgress], None] | None
    ) -> pa.Table:
        report = Reporter(2 if self._settings.log_z else 1, on_progress)
        warm = self._warm(nodes, chains, report)
        settings, draws = warm.settings, list[Draw]()

        def on_step(count: int, state: ChainState, info: StepInfo) -> None:
            report(float(info.acceptance.mean()))
            if count % settings.thin == 0:
                draws.append(self._keep(state, warm.parameters, warm.density.reference, warm.scores))

        trace = warm.draw(on_step)
        found = diagnose(trace, chains, settings.superchains)
        agree = converged(found, trace, chains, settings)
        log_z = warm.log_z(report.rest) if settings.log_z else [None] * len(found)
        facts = [self._facts(*node) for node in zip(nodes, found, agree, log_z, strict=True)]
        return make_rows(facts, draws, trace, warm.parameters, gradients=warm.gradients, seed=settings.seed)

    def trace(self, unit: Unit, on_progress: Callable[[UnitProgress], None] | None = None) -> UnitTrace:
        """Draw a unit's chains, the same as ``sample`` does, and return their trace instead of images.

        Raises:
            ScoreError: as ``sample`` does.
        """
        report, nodes = Reporter(1, on_progress), _nodes(unit)
        warm = self._warm(nodes, unit.chains, report)
        trace = warm.draw(lambda _count, _state, info: report(float(info.acceptance.mean())))
        return UnitTrace(tuple(nodes), trace, warm.parameters, warm.kernel.steps)

    def _warm(self, nodes: Sequence[Node], chains: int, report: Reporter) -> WarmChains:
        # The profile's contrast goes before a tilt given for all layers.
        profile = self._profile.get(nodes[0].layer, {})
        update = {"tilt": None, **profile} if "contrast" in profile else dict(profile)
        return warm_chains(self._targets, self._settings.model_copy(update=update), nodes, chains, self._device, report)

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


def _nodes(unit: Unit) -> list[Node]:
    return [read_node(text) for text in unit.nodes]
