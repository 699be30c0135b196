"""What a run will cost, estimated before it: its plan, counted, times what a short measurement here says of a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

import torch

from raygen.networks import Network
from raygen.runs.measure import Meter, Speed
from raygen.sampling import DEAD_IMAGES, Profile, SamplingSettings, Source, UnitSampler, most_looks, settings_of
from raygen.store import Run, Unit

_COMMIT, _ROW = 0.03, 60e-6
"""Seconds of one core: to write a unit's file and to begin the next unit; and of each row in it."""


@dataclass(frozen=True)
class LayerCost:
    """What the units of one layer and ending cost.

    Attributes:
        layer: name, with the ending of its nodes.
        units, nodes, chains: how many.
        most_gradients: chain-gradients, warm-up and the search for constant nodes included, at most.
        gradients: as many as are likely; the same where the number of steps is fixed, or could not be found out.
        seconds: of one actor, for all of the units.
        unit_seconds: of one unit.
        memory: bytes of an actor at its peak.
        steps: gradients of a trajectory after warm-up, on the average.
        measured: chains that shared a pass in the measurement.
    """

    layer: str
    units: int
    nodes: int
    chains: int
    most_gradients: int
    gradients: int
    seconds: float
    unit_seconds: float
    memory: float
    steps: float
    measured: int


@dataclass(frozen=True)
class PlanReport:
    """What a run will cost.

    Attributes:
        run: begun, with its plan.
        layers: in the plan's order.
        done: units that are committed already; the costs are those of all.
        device: "cpu" or "cuda", on which it was measured.
        threads: CPU threads that it was measured with.
        has_log_z: whether log Z is asked for, whose cost is not in the figures.
        has_budget: whether nodes may stop before their budget's end; then times, too, are upper bounds.
    """

    run: Run
    layers: tuple[LayerCost, ...]
    done: int
    device: str
    threads: int
    has_log_z: bool
    has_budget: bool

    @property
    def total(self) -> LayerCost:
        """All layers together."""
        return LayerCost(
            layer="all",
            units=sum(cost.units for cost in self.layers),
            nodes=sum(cost.nodes for cost in self.layers),
            chains=sum(cost.chains for cost in self.layers),
            most_gradients=sum(cost.most_gradients for cost in self.layers),
            gradients=sum(cost.gradients for cost in self.layers),
            seconds=sum(cost.seconds for cost in self.layers),
            unit_seconds=max((cost.unit_seconds for cost in self.layers), default=0.0),
            memory=max((cost.memory for cost in self.layers), default=0.0),
            steps=math.nan,
            measured=0,
        )

    def wall_seconds(self, actors: int) -> float:
        """Return how long so many actors take, each with cores or a GPU of its own, once they are up."""
        total = self.total
        # The last unit is waited for.
        return max(total.seconds / actors, total.unit_seconds) + (total.unit_seconds / 2 if actors > 1 else 0.0)


def estimate_cost(
    run: Run,
    network: Network,
    settings: SamplingSettings,
    images: Source,
    device: torch.device,
    profile: Profile,
    on_layer: Callable[[str], None] | None = None,
) -> PlanReport:
    """Estimate what a run costs, measuring a second or two for each layer.

    Args:
        run: begun.
        network: the run's.
        settings: the run's.
        images: what the reference is fitted to, or a saved reference; None for noise.
        device: where the run's chains are to live.
        profile: by layer, settings that go before the others.
        on_layer: called with the name of each layer before it is measured.

    Raises:
        StoreError: if the plan is torn.
        ScoreError: if a score is not finite where chains start.
    """
    plan = run.plan
    meter = Meter(UnitSampler(network, settings, images, device, profile), device)
    counts: dict[str, _Count] = {}
    for name, units in groupby(plan, key=group_of):
        counts[name] = _count(units, counts.get(name))
    layers = []
    for name, count in counts.items():
        if on_layer is not None:
            on_layer(name)
        own = settings_of(settings, profile, count.first.layer)
        layers.append(_cost(name, count, own, meter.measure(count.first)))
    return PlanReport(run, tuple(layers), sum(run.done(plan)), device.type, torch.get_num_threads(),
                      settings.log_z, settings.budget is not None)  # fmt: skip


@dataclass(frozen=True)
class _Count:
    first: Unit
    units: int
    nodes: int
    chains: int


def group_of(unit: Unit) -> str:
    """Return the layer of a unit with the ending of its nodes: units of the same cost, but for the last one."""
    return unit.name.rpartition("-")[0]


def _count(units: Iterable[Unit], before: _Count | None) -> _Count:
    count = before
    for unit in units:
        nodes = len(unit.nodes)
        if count is None:
            count = _Count(unit, 1, nodes, nodes * unit.chains)
        else:
            count = _Count(count.first, count.units + 1, count.nodes + nodes, count.chains + nodes * unit.chains)
    assert count is not None  # a group has a unit
    return count


def _cost(name: str, count: _Count, settings: SamplingSettings, speed: Speed) -> LayerCost:
    warm, longest = settings.warm_up, settings.mode_steps or settings.longest
    most = count.chains * settings.gradients + count.nodes * DEAD_IMAGES
    climb = settings.climb_gradients
    steps = count.chains * (climb + warm * speed.warm_steps + longest * speed.steps)
    # As draws are thinned out where there is a budget, some are made that are not kept in the end.
    draws = count.chains * settings.draws * (1 + math.log2(max(1.0, settings.longest / settings.iterations)))
    seconds = (
        count.chains * (warm * speed.per_warm_up + (longest + climb / max(1.0, speed.steps)) * speed.per_trajectory)
        + count.nodes * (speed.per_dead + most_looks(settings) * speed.per_look)
        + draws * speed.per_draw
        + count.chains * settings.draws * _ROW
        + count.units * _COMMIT
        + speed.beginning
    )
    first = len(count.first.nodes) / count.nodes
    return LayerCost(
        layer=name,
        units=count.units,
        nodes=count.nodes,
        chains=count.chains,
        most_gradients=most,
        gradients=round(steps) + count.nodes * DEAD_IMAGES,
        seconds=seconds,
        unit_seconds=seconds * first,
        memory=speed.memory,
        steps=speed.steps,
        measured=speed.rows,
    )
