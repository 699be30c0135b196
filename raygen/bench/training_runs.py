"""Whole training runs, on Ray Train and in a plain process."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from raygen import stages
from raygen.bench.results import Result
from raygen.config import PretrainConfig
from raygen.data import DataSettings, load_data


def against_plain_loop(data: DataSettings, epochs: int, rounds: int) -> Result:
    """Compare one worker on Ray Train with the same training in this process, after start-up."""
    return _alternate("Ray Train with 1 worker against the plain loop", data, epochs, rounds,
                      {"workers": 1}, {"local": True})  # fmt: skip


def two_workers(data: DataSettings, epochs: int, rounds: int) -> Result:
    """Compare two workers on Ray Train with one, one thread each."""
    return _alternate("Ray Train with 2 workers against 1", data, epochs, rounds, {"workers": 2}, {"workers": 1})


def _alternate(
    case: str, data: DataSettings, epochs: int, rounds: int, subject: dict[str, Any], baseline: dict[str, Any]
) -> Result:
    from raygen.cluster import session  # noqa: PLC0415  (only here Ray is needed)

    images = len(load_data(data, (1, 28, 28))[0])
    pairs = []
    with session():
        for number in range(rounds):
            order = (subject, baseline) if number % 2 else (baseline, subject)
            rates = [_rate(data, epochs, images, changes) for changes in order]
            pairs.append((rates[0], rates[1]) if number % 2 else (rates[1], rates[0]))
    above, below = zip(*pairs, strict=True)
    ratio = statistics.median(first / second for first, second in pairs)
    return Result("training", f"lenet on {data.data}, {case}", statistics.median(above), "images/s",
                  statistics.median(below), ratio)  # fmt: skip


def _rate(data: DataSettings, epochs: int, images: int, changes: dict[str, Any]) -> float:
    """Return the images a second after start-up, with evaluation, states and reports."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        values = {"out": str(out), "epochs": epochs, **data.model_dump(exclude_unset=True), **changes}
        # Epochs are seen some time after they end, several at once: what is on storage says how many, and when.
        seen: list[tuple[int, float]] = []
        stages.pretrain(PretrainConfig.parse(values, where="bench"), lambda _: seen.append(_progress(out)))
        # The first epochs share the cores with Ray's helpers (of data, of preemption), which are still importing.
    first, last = next(at for at in seen if at[0] >= epochs // 3), seen[-1]
    return images * (last[0] - first[0]) / (last[1] - first[1])


def _progress(out: Path) -> tuple[int, float]:
    """Return how many epochs are done, and when the last one was."""
    metrics = out / "metrics.jsonl"
    return len(metrics.read_text(encoding="utf-8").splitlines()), metrics.stat().st_mtime
