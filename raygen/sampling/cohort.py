"""Nodes of a unit that begin together: warmed up as one, then drawn until each of them stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raygen.hmc import (
    ChainState,
    Diagnostics,
    Noise,
    Parameters,
    Recorder,
    StepInfo,
    Streams,
    Tensors,
    Trace,
    WarmUpState,
    begin,
    current,
    diagnose,
    from_tensors,
    frozen,
    learn,
    rebuild,
    to_tensors,
    under,
    within,
)
from raygen.sampling.convergence import converged
from raygen.sampling.kept import Kept
from raygen.sampling.rows import Draw
from raygen.sampling.settings import SamplingSettings
from raygen.tilting import ContrastTilt, FixedTilt, Reference

_GROWTH = 8
"""Nodes are looked at after each round of trajectories, and later, since that takes the longer the longer the chains
are, whenever these have grown by an eighth."""

Keep = Callable[[ChainState, Parameters], Draw]
"""Makes a draw of chains."""


@dataclass(frozen=True)
class Stopped:
    """Nodes that stopped together, their chains side by side.

    Attributes:
        places: of the nodes in the unit.
        trace: after warm-up.
        parameters: frozen ones.
        draws: those kept.
        gradients: of each chain, warm-up included, (N,) int64.
        diagnostics, converged: of each node, over the whole trace.
    """

    places: tuple[int, ...]
    trace: Trace
    parameters: Parameters
    draws: list[Draw]
    gradients: Tensor
    diagnostics: tuple[Diagnostics, ...]
    converged: tuple[bool, ...]


class Cohort:
    """Some nodes of a unit, all after the same number of trajectories.

    Args:
        places: of the nodes in the unit.
        streams: of their random numbers.
        settings: of the unit.
        chains: where the chains start; their device is the cohort's.
        reference: q.
        keep: makes draws; None where none are wanted.
    """

    def __init__(
        self,
        places: tuple[int, ...],
        streams: Streams,
        settings: SamplingSettings,
        chains: ChainState,
        reference: Reference,
        keep: Keep | None,
    ) -> None:
        self.places = places
        self.made = 0
        self._streams = streams
        self._settings = settings
        self._plan = settings.make_warm_up()
        rule = tilt_rule(settings, len(places), reference, chains)
        self._warm: WarmUpState | None = begin(self._plan, settings.make_kernel(), chains, rule)
        self._chains = chains
        self._parameters: Parameters | None = None
        self._spent = torch.zeros(len(places) * streams.chains, dtype=torch.int64)
        self._recorder = Recorder()
        self._kept = Kept(settings.draws, settings.thin)
        self._keep = keep
        self._next_look = settings.iterations
        self._freeze()

    @property
    def rows(self) -> int:
        """Its chains."""
        return len(self._spent)

    @property
    def drawn(self) -> int:
        """Trajectories after warm-up."""
        return max(0, self.made - self._settings.warm_up)

    def ask(self) -> tuple[ChainState, Parameters, Noise]:
        """Return what its next trajectory is made of."""
        noise = self._streams.noise(self.made, self._chains.position.shape[1:])
        return self._chains, self._parameters or current(self._plan, self._known_warm()), noise

    def tell(self, chains: ChainState, info: StepInfo, noise: Noise) -> None:
        """Take in the trajectory that was asked for."""
        self._spent = self._spent + info.steps
        self.made += 1
        if self._parameters is None:
            self._warm = learn(self._plan, self._known_warm(), chains, info)
            self._chains = chains
            self._freeze()
            return
        self._recorder.note(self._chains, chains, self._parameters.tilt, noise, info)
        self._chains = chains
        if self._keep is not None and self._kept.wants(self.drawn):
            self._kept.add(self._keep(chains, self._parameters))

    def stop(self) -> Stopped | None:
        """Let go of the nodes that have converged, or of all where the budget ends; None where none stops now."""
        if self.drawn < self._next_look:
            return None
        each, trace, last = self._streams.chains, self._recorder.trace, self.drawn >= self._settings.longest
        found = diagnose(trace, each, self._settings.superchains)
        agree = converged(found, trace, each, self._settings)
        stopping = [index for index in range(len(self.places)) if last or agree[index]]
        # The last look is at the budget's end.
        later = self.drawn + max(self._settings.iterations, self.drawn // _GROWTH)
        self._next_look = min(later, self._settings.longest)
        if not stopping:
            return None
        assert self._parameters is not None  # it looks at chains after warm-up alone
        rows = _rows(stopping, each)
        stopped = Stopped(
            places=tuple(self.places[index] for index in stopping),
            trace=trace.rows(rows),
            parameters=self._parameters.rows(rows),
            draws=self._kept.rows(rows),
            gradients=self._spent[rows],
            diagnostics=tuple(found[index] for index in stopping),
            converged=tuple(agree[index] for index in stopping),
        )
        self._go_on_with([index for index in range(len(self.places)) if index not in stopping])
        return stopped

    def save(self) -> dict[str, Tensor]:
        """Return all that changes, as tensors by name."""
        counts = torch.tensor([self.made, self._next_look])
        saved = {"places": torch.tensor(self.places), "counts": counts, "spent": self._spent}
        if self._parameters is None:
            return saved | under("warm", to_tensors(self._known_warm()))
        saved |= under("chains", to_tensors(self._chains)) | under("parameters", to_tensors(self._parameters))
        saved |= under("kept", self._kept.save())
        return saved | (under("trace", to_tensors(self._recorder.trace)) if self.drawn else {})

    def restore(self, saved: Tensors) -> None:
        """Take up what ``save`` returned; the cohort must have been begun with the same nodes.

        Raises:
            KeyError, StoreError: if something is missing, or does not fit.
        """
        device = self._chains.position.device
        self.made, self._next_look = saved["counts"].tolist()
        self._spent = saved["spent"]
        if warm := within(saved, "warm"):
            self._warm = from_tensors(self._known_warm(), warm)
            self._chains = self._warm.chains
            return
        self._warm = None
        self._chains = rebuild(ChainState, within(saved, "chains"), device)
        self._parameters = rebuild(Parameters, within(saved, "parameters"), device)
        self._kept.restore(within(saved, "kept"))
        self._recorder = Recorder(rebuild(Trace, within(saved, "trace"), device) if self.drawn else None)

    def _known_warm(self) -> WarmUpState:
        assert self._warm is not None  # until the parameters are frozen
        return self._warm

    def _freeze(self) -> None:
        if self.made == self._plan.iterations:
            self._parameters, self._warm = frozen(self._known_warm()), None

    def _go_on_with(self, staying: list[int]) -> None:
        rows = _rows(staying, self._streams.chains)
        assert self._parameters is not None
        self.places = tuple(self.places[index] for index in staying)
        self._streams = replace(self._streams, keys=tuple(self._streams.keys[index] for index in staying))
        self._chains, self._parameters = self._chains.rows(rows), self._parameters.rows(rows)
        self._spent = self._spent[rows]
        self._recorder = Recorder(self._recorder.trace.rows(rows))
        self._kept.drop(rows)


def _rows(indices: list[int], chains: int) -> Tensor:
    """Return the numbers of the chains of nodes, given by their indices."""
    return (torch.tensor(indices, dtype=torch.int64)[:, None] * chains + torch.arange(chains)).flatten()


def tilt_rule(
    settings: SamplingSettings, nodes: int, reference: Reference, chains: ChainState
) -> FixedTilt | ContrastTilt:
    """Return what decides the tilts of nodes whose chains start there."""
    if settings.tilt is not None:
        return FixedTilt(chains.score.new_full((nodes,), settings.tilt))
    assert settings.contrast is not None  # the settings see to it
    return ContrastTilt.begin(settings.contrast, reference, chains.gradient, nodes)
