"""``raygen bench table1``: the paper's table of LeNet on MNIST, trained anew."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

from raygen import stages
from raygen.bench.loops import usable_cores
from raygen.bench.results import Result
from raygen.bench.settings import Table1Settings
from raygen.config import PretrainConfig
from raygen.data import DataSettings, load_data
from raygen.training import TrainingFolder

PAPER: Mapping[str, float] = MappingProxyType(
    {"discriminative": 1.03, "generative": 0.85, "generative-then-discriminative": 0.79}
)
"""Test errors, per cent, by objective (Dai, Lu, Wu 2015, section 5.1)."""

_MNIST = (1, 28, 28)


def bench_table1(settings: Table1Settings) -> Iterator[Result]:
    """Yield the mean test error of each objective over the seeds, beside the paper's, and what the pretraining gains.

    Raises:
        DataError: if MNIST is not there.
    """
    images = {"data": "mnist", "data_root": settings.data, "limit": settings.limit}
    load_data(DataSettings.parse(images, where="bench table1"), _MNIST)
    runs = [(objective, seed) for objective in PAPER for seed in range(settings.seeds)]
    with contextlib.ExitStack() as stack:
        out = Path(settings.out or stack.enter_context(tempfile.TemporaryDirectory()))
        pool = stack.enter_context(_processes(settings.processes or usable_cores()))
        errors = dict(zip(runs, pool.map(_error, [_config(settings, out, *run) for run in runs]), strict=True))
    means = {}
    for objective, paper in PAPER.items():
        found = [100 * errors[objective, seed] for seed in range(settings.seeds)]
        means[objective] = statistics.fmean(found)
        each = " ".join(f"{error:.2f}" for error in found)
        deviation = f", deviation {statistics.stdev(found):.2f}" if len(found) > 1 else ""
        case = f"LeNet on MNIST, {objective} ({each}{deviation}), against the paper"
        yield Result("table1", case, means[objective], "% test error", paper, means[objective] / paper)
    gain, paper = (table["discriminative"] - table["generative-then-discriminative"] for table in (means, dict(PAPER)))
    yield Result("table1", "generative pretraining gains, against the paper", gain, "% test error", paper, gain / paper)


@contextlib.contextmanager
def _processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """Give so many processes, which do not outlive a block that is stopped: their runs take minutes."""
    # Spawned, since a forked process inherits torch's threads in any state.
    with ProcessPoolExecutor(number, mp_context=get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()
            raise


def _config(settings: Table1Settings, out: Path, objective: str, seed: int) -> dict[str, Any]:
    return {
        "recipe": "lenet-mnist",
        "data_root": str(Path(settings.data).absolute()),
        "limit": settings.limit,
        "objective": objective,
        "epochs": settings.epochs,
        "precision": settings.precision,
        "shuffle": settings.shuffle,
        "seed": seed,
        "local": True,
        "out": str(out.absolute() / f"{objective}-{seed}"),
    }


def _error(config: dict[str, Any]) -> float:
    """Train, in this process and with one thread, and return the test error of the last epoch, 0 to 1."""
    folder: TrainingFolder = stages.pretrain(PretrainConfig.parse(config, where="bench table1"), lambda _: None)
    return folder.history()[-1].test.error
