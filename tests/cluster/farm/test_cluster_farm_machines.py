"""A farm on several machines, all of them this one: machines that are lost, drained, and come to it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_rooms import many_machines

from raygen import stages
from raygen.config import SampleConfig
from raygen.errors import SettingsError
from raygen.runs import FarmReport
from raygen.store import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LONG = {"nodes": "conv1:0-7", "chains": 2, "draws": 60, "thin": 4, "warm_up": 8, "steps": 2, "batch": 2, "seed": 5}


@pytest.fixture
def machines(ray_home: Path) -> Iterator[Any]:
    with many_machines(ray_home, RAY_AUTH_MODE="disabled") as cluster:
        yield cluster


def config_of(weights: Path, out: Path, **changes: object) -> SampleConfig:
    return SampleConfig.parse({**LONG, "weights": str(weights), "out": str(out), **changes}, where="test")


def tables(out: Path) -> dict[str, Any]:
    run = Run.open(str(out))
    return {unit.name: run.samples(unit).to_pydict() for unit in run.plan}


@pytest.fixture(scope="module")
def undisturbed(lenet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("here") / "run"
    stages.sample(config_of(lenet_file, out, local=True), lambda _: None)
    return tables(out)


class Once:
    """Does something when the farm is first seen at work, or first seen at all, and keeps the reports."""

    def __init__(self, act: Callable[[], object], *, at_work: bool = True) -> None:
        self._act, self._at_work = act, at_work
        self._acted = False
        self.reports: list[FarmReport] = []

    def __call__(self, report: FarmReport) -> None:
        self.reports.append(report)
        if not self._acted and (not self._at_work or any(unit.fraction > 0.1 for unit in report.running)):
            self._acted = True
            self._act()  # in this thread: Ray starts machines in no other


def drain(machine: Any, cluster: Any, seconds: float) -> None:
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int(1000 * (time.time() + seconds))
    accepted, why = GcsClient(address=cluster.address).drain_node(machine.node_id, reason, "spot", deadline)
    assert accepted, why


def actors_on(machine: Any) -> int:
    from ray._private import state

    found = state.actors().values()
    return sum(actor["State"] == "ALIVE" and actor["Address"]["NodeID"] == machine.node_id for actor in found)


def test_a_lost_machine_costs_nothing_but_time(
    machines: Any, lenet_file: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    machines.add_node(num_cpus=1)
    lost = machines.add_node(num_cpus=1)
    watch = Once(lambda: machines.remove_node(lost, allow_graceful=False))
    sampled = stages.sample(config_of(lenet_file, tmp_path / "run"), watch)
    assert sampled.report.made.units == 8 and not sampled.report.lost
    assert tables(tmp_path / "run") == undisturbed


def test_a_drained_machine_gets_nothing_new_and_is_left_before_it_goes(
    machines: Any, lenet_file: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    machines.add_node(num_cpus=1)
    drained = machines.add_node(num_cpus=1)
    held: list[int] = []

    def look(report: FarmReport) -> None:
        watch(report)
        held.append(actors_on(drained))

    watch = Once(lambda: drain(drained, machines, 60))
    sampled = stages.sample(config_of(lenet_file, tmp_path / "run", nodes="conv1:0-19", actors=2), look)
    assert max(held) == 1
    assert held[-1] == 0, "its actor is gone before the machine"
    assert sampled.report.made.units == 20 and not sampled.report.lost
    found = tables(tmp_path / "run")
    assert {unit: found[unit] for unit in undisturbed} == undisturbed


def test_a_farm_grows_onto_a_machine_that_comes(machines: Any, lenet_file: Path, tmp_path: Path) -> None:
    machines.add_node(num_cpus=1)
    watch = Once(lambda: machines.add_node(num_cpus=1))
    config = config_of(lenet_file, tmp_path / "run", nodes="conv1:0-19", draws=200, max_actors=3)
    sampled = stages.sample(config, watch)
    assert sampled.report.made.units == 20
    up = [report.actors - report.pending for report in watch.reports]
    assert max(up) == 2, "no third fits"
    assert max(report.actors for report in watch.reports) == 3, "and yet it is asked for"


def test_a_network_lies_once_on_each_machine(machines: Any, lenet_file: Path, tmp_path: Path) -> None:
    import ray
    from ray.experimental import get_object_locations

    from raygen.cluster import ActorKind, Farm, PoolSize, sampling_kind
    from raygen.networks import NetworkSettings, list_layers, load_network, parse_nodes
    from raygen.runs import begin_run
    from raygen.sampling import SamplingSettings

    for _ in range(2):
        machines.add_node(num_cpus=2)
    config = config_of(lenet_file, tmp_path / "run", nodes="conv1:0-19", draws=200)
    network = load_network(NetworkSettings(weights=str(lenet_file)))
    settings = SamplingSettings.part_of(config)
    nodes = parse_nodes(config.nodes, network, list_layers(network))
    run = begin_run(config.out, network, nodes, settings, images=None, about={})
    kind = sampling_kind(run, network, None, settings, profile={}, threads=1, gpus=0, save_every=0)
    assert isinstance(kind, ActorKind)
    holders: set[str] = set()
    (reference,) = [part for part in kind.arguments if isinstance(part, ray.ObjectRef)][:1]

    def look(_: FarmReport) -> None:
        holders.update(get_object_locations([reference])[reference]["node_ids"])

    plan = run.plan
    most = []
    Farm(plan, bytearray(len(plan)), kind, size=PoolSize(4, 4), deadline=60).run(
        lambda report: (look(report), most.append(report.actors - report.pending))
    )
    assert max(most) > 2, "more actors than machines"
    assert len(holders) <= 3, "the two machines, and the driver's"


def test_a_cluster_that_is_to_grow_may_be_empty_at_first(machines: Any, lenet_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not fit on the cluster"):
        stages.sample(config_of(lenet_file, tmp_path / "run", draws=2), lambda _: None)
    come = Once(lambda: machines.add_node(num_cpus=1), at_work=False)
    sampled = stages.sample(config_of(lenet_file, tmp_path / "run", draws=2, max_actors=2), come)
    assert come.reports[0].pending == come.reports[0].actors == 2
    assert sampled.report.made.units == 8
