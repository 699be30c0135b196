"""What ``raygen bench training`` and ``table1`` compare is what they say."""

import os

import numpy as np
import pytest
import torch
from waiting import wait_until

from raygen.bench import Table1Settings, bench_table1
from raygen.bench.training import normaliser_bytes
from raygen.bench.training_steps import Steps, make_plain_loop, plain_loop
from raygen.errors import DataError
from raygen.storage import Location
from raygen.training import TrainingFolder


@pytest.fixture(autouse=True)
def _threads():
    # Steps are measured with one thread.
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_normaliser_sends_twelve_bytes_a_class_whatever_the_batch():
    small, large = normaliser_bytes((8, 80))
    assert (small.value, large.value, small.unit) == (120.0, 120.0, "bytes")
    assert small.ratio == large.ratio == 1.0


def test_both_loops_train_on_every_image_and_change_the_network():
    steps = Steps("lenet", 4, 3)
    made = []
    steps.module = lambda: made.append(Steps.module(steps)) or made[-1]
    works = [
        steps.ours("float32", 1.0), steps.ours("bfloat16", 0.0), steps.cross_entropy("float32"), make_plain_loop(steps)
    ]  # fmt: skip
    before = [[p.detach().clone() for p in module.parameters()] for module in made]
    assert [work() for work in works] == [12.0] * 4
    for module, start in zip(made, before, strict=True):
        moved = [not torch.equal(p, old) for p, old in zip(module.parameters(), start, strict=True)]
        assert all(moved)
        # Small steps: the speed must not be that of a network that has left its range.
        assert all((p - old).abs().max() < 0.1 for p, old in zip(module.parameters(), start, strict=True))


def test_the_plain_loop_trains_on_every_image_in_a_process_of_its_own():
    with plain_loop("lenet", 4, 3) as work:
        assert [work(), work()] == [12.0, 12.0]


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for split, n in (("train", 40), ("t10k", 20)):
        write_idx(raw / f"{split}-images-idx3-ubyte", draw.integers(0, 256, (n, 28, 28)))
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(n) % 10)
    return tmp_path / "data"


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_table_is_the_mean_over_seeds_of_the_last_test_errors_and_goes_on_where_it_stopped(mnist, tmp_path):
    settings = Table1Settings(data=str(mnist), seeds=2, epochs=2, out=str(tmp_path / "runs"), processes=2)
    rows = list(bench_table1(settings))
    assert [row.baseline for row in rows] == pytest.approx([1.03, 0.85, 0.79, 0.24])
    errors = {}
    for folder in (tmp_path / "runs").iterdir():
        objective, _, seed = folder.name.rpartition("-")
        history = TrainingFolder(Location.of(str(folder))).history()
        phases = [report.phase for report in history]
        assert phases == {"generative-then-discriminative": ["generative", "discriminative"]}.get(
            objective, [objective] * 2
        )
        errors.setdefault(objective, {})[int(seed)] = 100 * history[-1].test.error
    for row, objective in zip(rows, ("discriminative", "generative", "generative-then-discriminative"), strict=False):
        assert sorted(errors[objective]) == [0, 1]
        assert row.value == pytest.approx(sum(errors[objective].values()) / 2)
        assert f" {objective} (" in row.case
    assert rows[3].value == pytest.approx(rows[0].value - rows[2].value)
    written = times(tmp_path / "runs")
    assert list(bench_table1(settings)) == rows
    assert times(tmp_path / "runs") == written


@pytest.mark.slow
def test_a_table_that_is_stopped_ends_its_runs_too(launcher, mnist, tmp_path):
    runs = tmp_path / "runs"
    process = launcher.raygen(
        "bench", "table1", "--data", mnist, "--epochs", "100000", "--processes", "2", "--out", runs
    )
    wait_until(lambda: len(list(runs.glob("*/metrics.jsonl"))) == 2, process)
    process.terminate()
    assert "raygen: stopped" in process.communicate(timeout=60)[1]
    assert process.returncode == 143
    wait_until(lambda: not [pid for pid in launcher.alive() if pid != os.getpid()])


def test_a_folder_without_mnist_is_refused_before_anything_trains(tmp_path):
    with pytest.raises(DataError, match="mnist is not there or damaged"):
        list(bench_table1(Table1Settings(data=str(tmp_path))))
