"""The units of a run, worked through in this process; and the traces of nodes' chains, for a closer look."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import pyarrow.compute as pc
import torch
from torch import Tensor

from raygen.errors import RaygenError, StoreError
from raygen.hmc import Groups, to_tensors
from raygen.networks import Network
from raygen.notation import Node
from raygen.runs.planning import LINE, plan_units
from raygen.runs.reports import FarmReport, Totals, UnitReport
from raygen.sampling import Profile, SamplerState, SamplingSettings, Source, UnitProgress, UnitSampler
from raygen.store import Run, Unit

log = logging.getLogger(__name__)

SAVE_EVERY = 60.0
"""Seconds from one saved state of a unit to the next."""

_SHARE = 0.05
"""Fraction of the time that saving may take: on a slow storage it is done less often."""


def sample_unit(
    run: Run,
    sampler: UnitSampler,
    unit: Unit,
    on_progress: Callable[[UnitProgress], None] | None = None,
    *,
    save_every: float = SAVE_EVERY,
    keeper: StateKeeper | None = None,
) -> UnitReport:
    """Sample a unit and commit it; continue from the state that another process left of it, if there is one.

    Args:
        run: whose unit.
        sampler: of the run's network and settings.
        unit: not yet committed.
        on_progress: called after each trajectory.
        save_every: seconds between two states that are saved; 0 saves none. A unit that takes less leaves none. One
            that is stopped, by an exception that is no ``Exception``, leaves its last state.
        keeper: of this unit's states, where another thread may ask it for the last one; it goes before ``save_every``.

    Raises:
        ScoreError, NetworkError: as ``UnitSampler.sample`` does.
        StoreError: if the samples cannot be written.
    """
    start = time.monotonic()
    keeper = keeper or StateKeeper(run, unit, save_every)
    try:
        rows = sampler.sample(unit, on_progress, on_state=keeper, saved=read_state(run, unit))
        size = run.commit(unit, rows)
    except BaseException as error:
        # A request to stop, by SIGTERM or Ctrl-C, is no Exception; a failure of the unit's own would come again.
        if not isinstance(error, Exception):
            keeper.save_last()
        raise
    first = rows.filter(pc.equal(rows["draw"], 0))
    heads = first.filter(pc.equal(first["chain"], 0))
    return UnitReport(
        unit=unit.name,
        layer=unit.layer,
        samples=rows.num_rows,
        gradients=pc.sum(first["gradients"]).as_py() + (pc.sum(first["log_z_gradients"]).as_py() or 0),
        acceptance=pc.mean(first.filter(pc.is_null(first["dead"]))["acceptance_rate"]).as_py() or math.nan,
        nodes=heads.num_rows,
        converged=pc.sum(heads["converged"]).as_py(),
        dead=pc.sum(pc.is_valid(heads["dead"])).as_py(),
        seconds=time.monotonic() - start,
        size=size,
        notes=sampler.notes,
    )


def sample_here(
    run: Run, sampler: UnitSampler, on_progress: Callable[[FarmReport], None], *, save_every: float = SAVE_EVERY
) -> FarmReport:
    """Sample, in this process and without Ray, what a run still lacks; units that cannot be sampled are set aside."""
    plan = run.plan
    done = run.done(plan)
    before = done.count(1)
    start = time.monotonic()
    layers: dict[str, Totals] = {}
    set_aside: dict[str, str] = {}

    def report(*running: UnitProgress) -> FarmReport:
        seconds = time.monotonic() - start
        return FarmReport(len(plan), before, dict(layers), running, 1, set_aside, seconds, lost=len(set_aside))

    for unit in (unit for number, unit in enumerate(plan) if not done[number]):
        try:
            made = sample_unit(run, sampler, unit, lambda unit: on_progress(report(unit)), save_every=save_every)
            layers[unit.layer] = layers.get(unit.layer, Totals()) + Totals.of(made)
        except StoreError:
            raise
        except RaygenError as error:  # such as of a network that fails at the reference's scale
            set_aside[unit.name] = str(error)
        on_progress(report())
    return report()


class StateKeeper:
    """Saves a unit's state now and then, when it is called between two trajectories.

    Args:
        run: on whose storage.
        unit: whose state.
        every: seconds from one state to the next, at least; 0 saves none.
    """

    def __init__(self, run: Run, unit: Unit, every: float) -> None:
        self._run = run
        self._unit = unit
        self._state = run.state(unit)
        self._every = every
        self._next = time.monotonic() + every
        self._unsaved: SamplerState | None = None
        self._saving = threading.Lock()

    def __call__(self, state: SamplerState) -> None:
        """Save a state, if it is time. Storage that refuses costs the state, not the unit."""
        if not self._every:
            return
        self._unsaved = state
        start = time.monotonic()
        if start < self._next:
            return
        self.save_last()
        end = time.monotonic()
        self._next = end + max(self._every, (end - start) / _SHARE)

    def save_last(self) -> str:
        """Save the last state that was seen, unless it is saved; any thread may ask for it while the unit goes on.

        Returns:
            Why the storage refused, which costs the state; else nothing.
        """
        with self._saving:
            state, refused = self._unsaved, ""
            if state is None:
                return ""
            try:
                # A copy of a unit that another process has finished in the meantime must leave nothing behind.
                if not self._is_committed():
                    self._state.write({name: tensor.numpy() for name, tensor in to_tensors(state).items()})
                    if self._is_committed():  # while the state was written
                        self._state.remove()
            except (StoreError, OSError) as error:
                log.warning("the state of %s is not saved: %s", self._unit.name, error)
                refused = str(error)
            if self._unsaved is state:  # the unit may have gone on
                self._unsaved = None
        return refused

    def _is_committed(self) -> bool:
        return self._run.location.exists(self._unit.path)


def read_state(run: Run, unit: Unit) -> dict[str, Tensor] | None:
    """Return the state that was saved of a unit; None where there is none that is whole and of this run."""
    arrays = run.state(unit).read()
    return None if arrays is None else {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def trace_nodes(
    network: Network,
    nodes: Sequence[Node],
    settings: SamplingSettings,
    *,
    images: Source = None,
    device: torch.device | None = None,
    profile: Profile | None = None,
) -> dict[str, Groups]:
    """Draw the chains of nodes, those that a run with these settings draws, and return what ArviZ reads.

    Args:
        network: whose nodes.
        nodes: without duplicates.
        settings: what decides the chains.
        images: what the reference is fitted to, or a saved reference; None for noise.
        device: where the chains live; the CPU where not given.
        profile: by layer, contrast, tilt or step size that go before the settings'.

    Returns:
        By node, as the command line writes it: the groups of ``raygen.hmc.to_arviz``, every trajectory after warm-up
        being a draw (a run keeps the image of each ``thin``-th of them).

    Raises:
        ScoreError: naming the node whose score is not finite, or has no gradient, where its chains start.
    """
    sampler = UnitSampler(network, settings, images, device or torch.device("cpu"), profile)
    groups: dict[str, Groups] = {}
    line = 1 if settings.budget is None else LINE
    for unit in plan_units(nodes, chains=settings.chains, batch=settings.together, line=line):
        groups |= sampler.trace(unit).to_arviz()
    return groups
