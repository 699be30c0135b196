"""The chains of one unit: score, reference, warm-up, draws, rows, log Z. No Ray, no storage.

What a unit has come to after a trajectory is one value, a :class:`SamplerState`. The batch moves the chains, and the
sampler makes draws and rows of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import torch

from raygen.errors import SettingsError, StoreError
from raygen.hmc import ChainState, Diagnostics, Groups, Kernel, Tensors, TiltRule, rebuild, to_arviz
from raygen.networks import Layer, Network, Scores, ViewScores, list_layers, node_label
from raygen.notation import Node
from raygen.sampling.batch import Batch, BatchState
from raygen.sampling.cohort import EndedNodes
from raygen.sampling.draws import Draw, make_draw, make_means
from raygen.sampling.log_z import LogZ, LogZEstimator, LogZState
from raygen.sampling.modes import Climb, ModeSeeker
from raygen.sampling.progress import Reporter, UnitProgress
from raygen.sampling.reference import Source
from raygen.sampling.rows import NodeFacts, add_log_z, make_rows, read_rows, to_bytes
from raygen.sampling.settings import SamplingSettings
from raygen.sampling.targets import UNKNOWN, Targets, no_trace
from raygen.store import Unit
from raygen.tilting import ContrastTilt, FixedTilt, Reference, WhitenedScore, reference_kind

log = logging.getLogger(__name__)

Profile = Mapping[str, Mapping[str, float]]
"""Settings by layer, as ``raygen tune`` finds them."""


@dataclass(frozen=True)
class UnitTrace:
    """The chains of a unit after warm-up, in numbers.

    Attributes:
        nodes: of the unit.
        ended: those that ended together, by their indices in ``nodes``.
        steps: gradients of a trajectory, where the parameters do not give each chain its own.
    """

    nodes: tuple[Node, ...]
    ended: tuple[EndedNodes, ...]
    steps: int

    def to_arviz(self) -> dict[str, Groups]:
        """Return each node's chains, by its name, as ``raygen.hmc.to_arviz`` does."""
        groups: dict[int, Groups] = {}
        for part in self.ended:
            chains = part.trace.score.shape[1] // len(part.indices)
            for number, index in enumerate(part.indices):
                groups[index] = to_arviz(part.trace, chains, number, parameters=part.parameters, steps=self.steps)
        return {str(node): groups[index] for index, node in enumerate(self.nodes)}


@dataclass(frozen=True)
class SamplerState:
    """All that a unit has come to, those of its nodes that are dead apart.

    Attributes:
        batch: its chains; none where modes are sought.
        rows: of the nodes that have ended, each cohort's as an Arrow stream.
        log_z: of the first nodes, where it is asked for; begun once all chains have ended.
        estimate: of the next nodes' log Z.
        climb: the way to its modes, where these are sought.
    """

    batch: BatchState
    rows: tuple[bytes, ...] = ()
    log_z: tuple[LogZ, ...] = ()
    estimate: LogZState = field(default_factory=LogZState)
    climb: Climb | None = None


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
        on_state: Callable[[SamplerState], None] | None = None,
        saved: Tensors | None = None,
    ) -> pa.Table:
        """Return the samples of a unit, of schema ``SAMPLES``; of constant and dead nodes the reference's, marked.

        Args:
            unit: whose nodes.
            on_progress: called after each trajectory.
            on_state: called after each trajectory with all that the unit has come to.
            saved: such a state of the same unit, network and settings, as ``raygen.hmc.to_tensors`` returns it: the
                unit continues there, and comes to the same samples bit for bit. What does not fit is passed over.

        Raises:
            ScoreError: naming the node, if its score or gradient is not finite where its chains start.
            NetworkError: if the network fails, or its response to an image depends on other images or on chance.
        """
        nodes = unit.parsed
        dead = self.find_dead(nodes)
        tables = [self._dead_rows(node, reason, unit.chains) for node, reason in dead.items()]
        alive = [node for node in nodes if node not in dead]
        if alive and self.seeks_modes:
            tables.append(self._modes(self.make_seeker(alive, unit.chains), on_progress, on_state, saved))
        elif alive:
            batch = self.make_batch(alive, unit.chains)
            begun = self._rebuild(batch, saved) if saved else None
            state = begun or SamplerState(batch.begin())
            report = Reporter(2 if self._settings.log_z else 1, on_progress)
            for later in self._states(batch, state, report):
                state = later
                if on_state is not None:
                    on_state(state)
            tables.append(_finish(batch, state))
        rows, index = pa.concat_tables(tables), {str(node): index for index, node in enumerate(nodes)}
        order = np.argsort([index[name] for name in rows["node"].to_pylist()], kind="stable")
        return rows.take(pa.array(order))

    def trace(self, unit: Unit, on_progress: Callable[[UnitProgress], None] | None = None) -> UnitTrace:
        """Draw a unit's chains, the same as ``sample`` does, and return their trace instead of images.

        Raises:
            ScoreError: as ``sample`` does.
        """
        report, batch = Reporter(1, on_progress), self.make_batch(unit.parsed, unit.chains)
        ended: list[EndedNodes] = []
        state = batch.begin()
        while not batch.finished(state):
            state, acceptance = batch.step(state)
            state, parts = batch.end_nodes(state)
            ended += parts
            report.chains(batch.fraction(state), acceptance)
        return UnitTrace(batch.nodes, tuple(ended), self._settings.kernel_steps)

    @property
    def seeks_modes(self) -> bool:
        """Whether modes are sought, instead of samples."""
        return self._settings.mode_steps is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Which shortcuts the last unit did not take, and why; mostly none."""
        return self._targets.notes

    def find_dead(self, nodes: Sequence[Node]) -> dict[Node, str]:
        """Return those of a unit's nodes that are not sampled, constant and dead ones, each with the reason."""
        return self._targets.find_dead(nodes)

    def make_batch(self, nodes: Sequence[Node], chains: int) -> Batch:
        """Return what moves the chains of nodes of one layer and ending, so many of each."""
        density = self._targets.density(self._targets.scores(nodes, chains))
        settings = settings_of(self._settings, self._profile, nodes[0].layer)
        return Batch(nodes, density, self._targets.streams(nodes, chains), settings)

    def make_seeker(self, nodes: Sequence[Node], chains: int) -> ModeSeeker:
        """Return what seeks modes of nodes of one layer and ending, so many of each."""
        density = self._targets.density(self._targets.scores(nodes, chains))
        settings = settings_of(self._settings, self._profile, nodes[0].layer)
        assert settings.mode_steps is not None  # where modes are sought
        return ModeSeeker(nodes, density, self._targets.streams(nodes, chains), settings, settings.mode_steps)

    def draw(self, batch: Batch, state: BatchState) -> BatchState:
        """Return the state with a draw of each cohort for which it is due."""
        cohorts = tuple(
            cohort.with_draw(self._draw(batch.density, cohort.chains, cohort.parameters(batch.settings).tilt),
                             batch.settings)
            if cohort.draw_due() else cohort
            for cohort in state.cohorts
        )  # fmt: skip
        return replace(state, cohorts=cohorts)

    def _rebuild(self, mover: Batch | ModeSeeker, saved: Tensors) -> SamplerState | None:
        """Return the state that was saved; None where it does not fit."""
        rule = ContrastTilt if mover.settings.tilt is None else FixedTilt
        given = {TiltRule: rule, Reference: mover.density.reference}
        try:
            state = rebuild(SamplerState, saved, self._device, given)
            mover.check(state.batch) if isinstance(mover, Batch) else mover.check(state.climb)
            read_rows(state.rows)
        except (StoreError, TypeError, ValueError) as error:
            log.warning("%s begins anew, its saved state does not fit: %s", mover.nodes[0], error)
            return None
        return state

    def _modes(
        self,
        seeker: ModeSeeker,
        on_progress: Callable[[UnitProgress], None] | None,
        on_state: Callable[[SamplerState], None] | None,
        saved: Tensors | None,
    ) -> pa.Table:
        """Climb to the end, from the start or from where a saved state was; return the rows."""
        report = Reporter(1, on_progress)
        begun = self._rebuild(seeker, saved) if saved else None
        climb = begun.climb if begun is not None and begun.climb is not None else seeker.begin()
        while climb.made < seeker.steps:
            climb = seeker.step(climb)
            report.chains(climb.made / seeker.steps, math.nan)
            if on_state is not None:
                on_state(SamplerState(BatchState(), climb=climb))
        parameters = seeker.parameters(climb)
        draw = self._draw(seeker.density, Kernel().init(seeker.density, climb.position), parameters.tilt)
        chains = seeker.streams.chains
        tilts = parameters.tilt[::chains].tolist()
        facts = [
            replace(self._facts(node, seeker.density, UNKNOWN, agree=False), mode_steps=seeker.steps, dead=_flat(tilt))
            for node, tilt in zip(seeker.nodes, tilts, strict=True)
        ]
        trace, _ = no_trace(len(climb.position))
        return make_rows(facts, [draw], trace, parameters, gradients=[seeker.steps] * len(climb.position),
                         seed=self._settings.seed)  # fmt: skip

    def _states(self, batch: Batch, state: SamplerState, report: Reporter) -> Iterator[SamplerState]:
        """Yield the state after each trajectory that is missing."""
        while not batch.finished(state.batch):
            moved, acceptance = batch.step(state.batch)
            rest, ended = batch.end_nodes(self.draw(batch, moved))
            rows = tuple(to_bytes(self._rows(batch, part)) for part in ended)
            state = replace(state, batch=rest, rows=(*state.rows, *rows))
            report.chains(batch.fraction(rest), acceptance)
            yield state
        if self._settings.log_z:
            yield from self._log_z_states(batch, state, report)

    def _log_z_states(self, batch: Batch, state: SamplerState, report: Reporter) -> Iterator[SamplerState]:
        """Yield the state after each rung: of as many nodes at once as fit."""
        rows, whole = read_rows(state.rows), len(batch.nodes)
        tilt_of = dict(zip(rows["node"].to_pylist(), rows["tilt"].to_pylist(), strict=True))
        while (done := len(state.log_z)) < whole:
            nodes = batch.nodes[done:][: batch.capacity]
            estimator = self._estimator(batch, nodes, [tilt_of[str(node)] for node in nodes])
            while len(state.log_z) == done:
                state = _climb(estimator, nodes, state)
                fraction = estimator.fraction(state.estimate)
                if fraction is not None:
                    report.rest((done + fraction * len(nodes)) / whole)
                yield state

    def _estimator(self, batch: Batch, nodes: Sequence[Node], tilts: Sequence[float]) -> LogZEstimator:
        chains, density = batch.streams.chains, batch.density
        if len(nodes) < len(batch.nodes):
            density = self._targets.density(self._targets.scores(nodes, chains))
        return LogZEstimator(batch.kernel, density, self._targets.streams(nodes, chains),
                             torch.tensor(tilts, device=self._device), density.reference.shape,
                             rungs=self._settings.log_z_rungs)  # fmt: skip

    def _dead_rows(self, node: Node, reason: str, chains: int) -> pa.Table:
        """Return a row for each chain of a node that is not sampled: where the chain would have started."""
        scores = self._targets.scores([node], chains)
        density = WhitenedScore(scores, self._targets.reference(scores.input_shape))
        start = self._targets.streams([node], chains).start(density.reference.shape)
        trace, parameters = no_trace(chains)
        draw = self._draw(density, Kernel().init(density, start), parameters.tilt)
        facts = replace(self._facts(node, density, UNKNOWN, agree=False), dead=reason)
        return make_rows([facts], [draw], trace, parameters, gradients=[0] * chains, seed=self._settings.seed)

    def _rows(self, batch: Batch, ended: EndedNodes) -> pa.Table:
        density = batch.density_of(ended.indices)
        tilts = ended.parameters.tilt.view(len(ended.indices), -1)[:, 0].tolist()
        facts = [
            replace(
                self._facts(batch.nodes[index], density, found, agree=agree and tilt > 0),
                trajectories=len(ended.trace),
                stopped=None if self._settings.budget is None else "converged" if agree else "budget",
                barrier=None if math.isnan(barrier) else barrier,
                dead=_flat(tilt),
            )
            for index, found, agree, barrier, tilt in zip(
                ended.indices, ended.diagnostics, ended.converged, ended.barrier, tilts, strict=True
            )
        ]
        means = make_means(self._network, density, ended.means)
        return make_rows(facts, ended.draws, ended.trace, ended.parameters, gradients=ended.gradients.tolist(),
                         seed=self._settings.seed, means=means, ancestor=ended.ancestor.tolist())  # fmt: skip

    def _draw(self, density: WhitenedScore, chains: ChainState, tilt: torch.Tensor) -> Draw:
        assert isinstance(density.score, Scores)  # as the targets make it
        return make_draw(self._network, density.score, density.reference, chains, tilt)

    def _facts(self, node: Node, density: WhitenedScore, found: Diagnostics, *, agree: bool) -> NodeFacts:
        return NodeFacts(
            model=self._network.name,
            node=str(node),
            layer=node.layer,
            channel=node.channel,
            class_name=node_label(node, self._network, self._layers),
            converged=agree,
            diagnostics=found,
            reference=reference_kind(density.reference),
            views=len(density.score.views) if isinstance(density.score, ViewScores) else 1,
        )


def _flat(tilt: float) -> str | None:
    """Return why a node with this tilt was not sampled; None where it is above 0, as a gradient makes it."""
    return None if tilt > 0 else "dead: its score had no gradient wherever its chains went"


def _climb(estimator: LogZEstimator, nodes: Sequence[Node], state: SamplerState) -> SamplerState:
    """Return the state after one more rung, with the nodes' log Z once it is the last one."""
    try:
        estimate = estimator.step(state.estimate)
    except SettingsError as error:  # a tilt that is not finite or out of reach: the samples are worth keeping
        log.warning("no log Z of %s: %s", ", ".join(map(str, nodes)), error)
        unknown = LogZ(math.nan, math.nan, math.nan, 0)
        return replace(state, log_z=(*state.log_z, *(unknown for _ in nodes)), estimate=LogZState())
    if not estimator.finished(estimate):
        return replace(state, estimate=estimate)
    return replace(state, log_z=(*state.log_z, *estimator.result(estimate)), estimate=LogZState())


def _finish(batch: Batch, state: SamplerState) -> pa.Table:
    """Return the samples of a unit whose nodes have all ended, in any order."""
    rows = read_rows(state.rows)
    if not batch.settings.log_z:
        return rows
    return add_log_z(rows, dict(zip(map(str, batch.nodes), state.log_z, strict=True)))
