"""The chains of one unit: score, reference, warm-up, draws, rows. No Ray, no storage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from raygen.errors import StoreError
from raygen.hmc import ChainState, Diagnostics, Groups, Kernel, Parameters, Tensors, potential, to_arviz
from raygen.networks import Layer, Network, NodeScores, list_layers, node_label
from raygen.nodes import Node
from raygen.sampling.batch import Batch
from raygen.sampling.cohort import Stopped
from raygen.sampling.dead import UNKNOWN, find_dead, no_trace
from raygen.sampling.log_z import OnState
from raygen.sampling.progress import Reporter, UnitProgress
from raygen.sampling.reference import Source
from raygen.sampling.rows import Draw, NodeFacts, encode_images, make_rows
from raygen.sampling.settings import SamplingSettings
from raygen.sampling.streams import node_streams
from raygen.sampling.targets import Targets
from raygen.sampling.work import Work
from raygen.store import Unit
from raygen.tilting import Reference, WhitenedScore, signal

log = logging.getLogger(__name__)

Profile = Mapping[str, Mapping[str, float]]
"""Settings by layer, as ``raygen tune`` finds them."""


@dataclass(frozen=True)
class UnitTrace:
    """The chains of a unit after warm-up, in numbers.

    Attributes:
        nodes: of the unit.
        stopped: nodes that stopped together, by their places in ``nodes``.
        steps: gradients of a trajectory, where the parameters do not give each chain its own.
    """

    nodes: tuple[Node, ...]
    stopped: tuple[Stopped, ...]
    steps: int

    def to_arviz(self) -> dict[str, Groups]:
        """Return each node's chains, by its name, as ``raygen.hmc.to_arviz`` does."""
        groups: dict[int, Groups] = {}
        for part in self.stopped:
            chains = part.trace.score.shape[1] // len(part.places)
            for index, place in enumerate(part.places):
                groups[place] = to_arviz(part.trace, chains, index, parameters=part.parameters, steps=self.steps)
        return {str(node): groups[place] for place, node in enumerate(self.nodes)}


def settings_of(settings: SamplingSettings, profile: Profile, layer: str) -> SamplingSettings:
    """Return the settings of a layer, where the profile's go before the others."""
    own = profile.get(layer, {})
    # The profile's contrast goes before a tilt given for all layers.
    return settings.model_copy(update={"tilt": None, **own} if "contrast" in own else dict(own))


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

    def sample(
        self,
        unit: Unit,
        on_progress: Callable[[UnitProgress], None] | None = None,
        *,
        on_state: OnState | None = None,
        saved: Tensors | None = None,
    ) -> pa.Table:
        """Return the samples of a unit, of schema ``SAMPLES``; of constant and dead nodes the reference's, marked.

        Args:
            unit: whose nodes.
            on_progress: told after each trajectory.
            on_state: called after each trajectory with what returns all that the unit has come to, as tensors by name.
            saved: such tensors, of the same unit, network and settings: the unit goes on from there, and comes to the
                same samples bit for bit. What does not fit is passed over.

        Raises:
            ScoreError: naming the node, if its score is not finite, or has no gradient, where its chains start.
        """
        nodes = unit.parsed
        cut = self._targets.cut(nodes[0])
        reference = self._targets.reference(cut.input_shape)
        dead = find_dead(cut, nodes, reference, seed=self._settings.seed, device=self._device)
        tables = [self._marked(node, reason, unit.chains) for node, reason in dead.items()]
        if lively := [node for node in nodes if node not in dead]:
            tables.append(self._sample(lively, unit.chains, on_progress, on_state, saved or {}))
        place = {str(node): index for index, node in enumerate(nodes)}
        rows = pa.concat_tables(tables)
        order = np.argsort([place[name] for name in rows["node"].to_pylist()], kind="stable")
        return rows.take(pa.array(order))

    def _marked(self, node: Node, reason: str, chains: int) -> pa.Table:
        """Return a row for each chain of a node that is not sampled: where the chain would have started."""
        scores = self._targets.scores([node], chains)
        reference = self._targets.reference(scores.input_shape)
        streams = node_streams(self._settings, [node], chains, self._device)
        state = Kernel().init(WhitenedScore(scores, reference), streams.start(reference.shape))
        trace, parameters = no_trace(chains)
        facts = replace(self._facts(node, UNKNOWN, agree=False), dead=reason)
        draws = [self._keep(state, parameters, reference, scores)]
        return make_rows([facts], draws, trace, parameters, gradients=[0] * chains, seed=self._settings.seed)

    def _sample(
        self,
        nodes: Sequence[Node],
        chains: int,
        on_progress: Callable[[UnitProgress], None] | None,
        on_state: OnState | None,
        saved: Tensors,
    ) -> pa.Table:
        report = Reporter(2 if self._settings.log_z else 1, on_progress)
        work = self._work(nodes, chains)
        if saved:
            try:
                work.restore(saved)
            except (StoreError, KeyError, TypeError, ValueError) as error:
                log.warning("%s begins anew, its saved state does not fit: %s", nodes[0], error)
                work = self._work(nodes, chains)
        return work.run(report, on_state)

    def trace(self, unit: Unit, on_progress: Callable[[UnitProgress], None] | None = None) -> UnitTrace:
        """Draw a unit's chains, the same as ``sample`` does, and return their trace instead of images.

        Raises:
            ScoreError: as ``sample`` does.
        """
        report, nodes = Reporter(1, on_progress), unit.parsed
        settings = self._settings_of(nodes[0].layer)
        density = self._targets.density(self._targets.scores(nodes, unit.chains))
        streams = node_streams(settings, nodes, unit.chains, self._device)
        batch = Batch(nodes, density, streams, settings, None)
        stopped: list[Stopped] = []
        while not batch.finished:
            acceptance = batch.step()
            stopped += batch.stop()
            report.chains(batch.fraction, acceptance)
        return UnitTrace(tuple(nodes), tuple(stopped), self._settings.make_kernel().steps)

    def _settings_of(self, layer: str) -> SamplingSettings:
        return settings_of(self._settings, self._profile, layer)

    def _work(self, nodes: Sequence[Node], chains: int) -> Work:
        scores = self._targets.scores(nodes, chains)
        density = self._targets.density(scores)

        def keep(state: ChainState, parameters: Parameters) -> Draw:
            return self._keep(state, parameters, density.reference, scores)

        def to_rows(stopped: Stopped) -> pa.Table:
            return self._rows(nodes, stopped)

        settings = self._settings_of(nodes[0].layer)
        return Work(self._targets, nodes, density, settings, chains, self._device, keep=keep, to_rows=to_rows)

    def _rows(self, nodes: Sequence[Node], stopped: Stopped) -> pa.Table:
        facts = [
            replace(
                self._facts(nodes[place], found, agree=agree),
                trajectories=len(stopped.trace),
                stopped=None if self._settings.budget is None else "converged" if agree else "budget",
            )
            for place, found, agree in zip(stopped.places, stopped.diagnostics, stopped.converged, strict=True)
        ]
        return make_rows(facts, stopped.draws, stopped.trace, stopped.parameters, gradients=stopped.gradients.tolist(),
                         seed=self._settings.seed)  # fmt: skip

    def _keep(self, state: ChainState, parameters: Parameters, reference: Reference, scores: NodeScores) -> Draw:
        x = reference.image(state.position)
        with torch.no_grad():
            top_channel = scores.responses(x).argmax(1)
        images, low, high = encode_images(self._network.pixels(x))
        return Draw(
            images=images,
            low=low,
            high=high,
            score=state.score.cpu(),
            potential=potential(state, parameters.tilt).cpu(),
            top_channel=top_channel.cpu(),
            signal=signal(state.gradient, reference).cpu(),
        )

    def _facts(self, node: Node, found: Diagnostics, agree: bool) -> NodeFacts:
        return NodeFacts(
            model=self._network.name,
            node=str(node),
            layer=node.layer,
            channel=node.channel,
            class_name=node_label(node, self._network, self._layers),
            converged=agree,
            diagnostics=found,
        )
