"""``raygen bench training``: what the generative gradient costs, what channels-last bfloat16 gains, what Ray costs."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from raygen.bench.results import Result, compare
from raygen.bench.training_messages import normaliser_bytes
from raygen.bench.training_runs import against_plain_loop, two_workers
from raygen.bench.training_steps import Steps, plain_loop
from raygen.data import DataSettings
from raygen.process import keep_freed_memory
from raygen.training import Precision

_PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


class TrainingBenchSettings(DataSettings):
    """What ``raygen bench training`` measures."""

    rounds: int = Field(9, ge=1, description="counted rounds; their median is told")
    alexnet: bool = Field(True, description="also measure steps of AlexNet, which take some seconds each on a CPU")
    ray: bool = Field(True, description="also measure whole runs on Ray Train, which take some minutes")
    run_epochs: int = Field(60, ge=3, description="epochs of each of these runs; the first third does not count")
    run_rounds: int = Field(3, ge=1, description="counted rounds of these runs; their median is told")


def bench_training(settings: TrainingBenchSettings) -> Iterator[Result]:
    """Yield the speed of steps, of whole runs, and the size of the messages; all with one thread a process."""
    keep_freed_memory()
    networks = [("lenet", 64, 30)] + ([("caffe_alexnet", 32, 1)] if settings.alexnet else [])
    for network, batch, number in networks:
        steps = Steps(network, batch, number)
        for precision in _PRECISIONS:
            for case, baseline in (
                # These tell of the importance weights too, as raygen always does.
                ("discriminative steps", steps.ours(precision, 0.0)),
                ("cross entropy alone", steps.cross_entropy(precision)),
            ):
                yield compare(
                    "training", f"{network} batch {batch}, generative steps against {case}, {precision}",
                    steps.ours(precision, 1.0), baseline, rounds=settings.rounds, unit="images/s",
                )  # fmt: skip
    steps = Steps(*networks[0])
    with plain_loop(*networks[0]) as plain:
        for precision in _PRECISIONS:
            yield compare(
                "training", f"lenet batch 64, generative, channels-last {precision}, against a plain loop in float32",
                steps.ours(precision, 1.0), plain, rounds=settings.rounds, unit="images/s",
            )  # fmt: skip
    yield from normaliser_bytes((64, 256))
    if settings.ray:
        yield against_plain_loop(DataSettings.part_of(settings), settings.run_epochs, settings.run_rounds)
        yield two_workers(DataSettings.part_of(settings), settings.run_epochs, settings.run_rounds)
