"""The farm's benchmark: its cases and what they count. It asserts no speed."""

import math
import threading
import time

import pytest

from raygen.bench import FarmBenchSettings, bench_farm
from raygen.bench.farm_speed import Gate, IdlePlan


def test_the_simulation_needs_no_ray_and_reports_what_was_done() -> None:
    settings = FarmBenchSettings(rounds=0, idle_units=0, virtual_actors=50, virtual_units=2_000)
    done, once, busy, seconds = bench_farm(settings)
    assert done.ratio == once.ratio == 1.0 and done.value == 2_000
    assert 0 < busy.value <= 1 and busy.baseline == 0.95
    assert seconds.unit == "s" and seconds.value > 0


def test_a_plan_without_work_has_as_many_units_as_asked_for() -> None:
    plan = IdlePlan(3)
    assert [unit.name for unit in plan] == ["layer-0000000", "layer-0000001", "layer-0000002"]
    assert plan[-1] == plan[2] and len(plan[1:]) == 2
    with pytest.raises(IndexError):
        plan[3]


def test_a_gate_opens_when_the_last_has_come(tmp_path) -> None:
    gate = Gate(tmp_path, 2)
    first = threading.Thread(target=gate.pass_through)
    first.start()
    time.sleep(0.1)
    assert first.is_alive()
    before = time.time()
    gate.pass_through()
    first.join()
    assert before <= gate.opened <= time.time()


@pytest.mark.slow
def test_the_farm_is_measured_against_bare_processes_and_without_work(monkeypatch, ray_home) -> None:
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2}')
    monkeypatch.setenv("HOME", str(ray_home))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    settings = FarmBenchSettings(units=4, draws=2, rounds=1, idle_units=50, virtual_units=0)
    results = list(bench_farm(settings))
    assert len({found.case for found in results}) == len(results) == 8
    assert all(math.isfinite(found.ratio) and found.value > 0 for found in results)
