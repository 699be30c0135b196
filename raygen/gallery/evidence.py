"""What a run says about its nodes: plain numbers, read from the samples and summed up, and their lasting addresses."""

from __future__ import annotations

import hashlib
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raygen.notation import without_layer

Images = list[list[bytes]]
"""PNG files of one node: by chain, then by draw."""

_OF_THE_NODE = (
    "node", "layer", "channel", "class_name", "tilt", "contrast",
    "r_hat", "r_hat_nested", "ess_bulk", "trajectories", "stop_reason", "log_z", "log_z_error", "dead",
    "barrier", "mode_steps",
)  # fmt: skip
"""Columns that are the same for all samples of a node."""


@dataclass(frozen=True)
class Chain:
    """One chain of a node, its draws in order; ``score`` is their mean score, ``mean_score`` that of its mean image."""

    number: int
    draws: tuple[int, ...]
    scores: tuple[float, ...]
    top_channels: tuple[int, ...]
    acceptance_rate: float
    step_size: float
    gradients: int
    divergences: int
    score: float
    mean_score: float | None = None


@dataclass(frozen=True)
class Entry:
    """A node's line in the index: what tiles, tables and ``gallery.json`` show. Numbers may be NaN.

    Attributes:
        node: as the command line takes it.
        stem: of its files in the layer's folder.
        top_share: share of its samples to which no other channel of the layer responds more; NaN of a sum of channels.
        constant: whether every draw has the same score, as a dead unit's draws have.
        r_hat_nested, log_z, log_z_error: None where they were not asked for.
        trajectories: of each chain after warm-up; None where the samples do not say.
        stop_reason: why no more were made, "converged" or "budget"; None in a run without a budget.
        dead: why the node was not sampled; None for almost all.
        barrier: Lambda between the reference and the node; None where it was not measured.
        mode_steps: steps uphill to its images, which are modes then; None where they are draws.
    """

    node: str
    layer: str
    channel: int
    class_name: str | None
    stem: str
    samples: int
    score: float
    tilt: float
    contrast: float
    acceptance_rate: float
    divergences: int
    r_hat: float
    ess_bulk: float
    converged: bool
    top_share: float
    constant: bool
    r_hat_nested: float | None = None
    log_z: float | None = None
    log_z_error: float | None = None
    trajectories: int | None = None
    stop_reason: str | None = None
    dead: str | None = None
    barrier: float | None = None
    mode_steps: int | None = None

    @property
    def label(self) -> str:
        """The class's name where there is one, else the node's."""
        return self.class_name or self.node


@dataclass(frozen=True)
class NodeEvidence:
    """All that is known of a node; ``low`` and ``high`` are the ranges of the pixel values shown as black and white."""

    entry: Entry
    chains: tuple[Chain, ...]
    model: str
    seed: int
    low: tuple[float, float]
    high: tuple[float, float]


@dataclass(frozen=True)
class LayerTotals:
    """A layer's line in the summary table; NaN where there is nothing to sum up."""

    nodes: int
    samples: int
    converged: float
    r_hat: float
    ess_bulk: float
    acceptance_rate: float
    divergences: int
    top_share: float


def read_nodes(table: pa.Table) -> Iterator[tuple[NodeEvidence, Images, Images]]:
    """Yield each node in a table of samples with its draws and its chains' means, in the order of the rows.

    Samples that were written before there were means have none, and neither have dead nodes.
    """
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(table["node"].to_pylist()):
        rows_of.setdefault(name, []).append(row)
    for rows in rows_of.values():
        samples = sorted(table.take(rows).to_pylist(), key=lambda sample: (sample["chain"], sample["draw"]))
        by_chain: dict[int, list[dict[str, Any]]] = {}
        for sample in samples:
            by_chain.setdefault(sample["chain"], []).append(sample)
        images = [[sample["image"]["bytes"] for sample in chain] for chain in by_chain.values()]
        means = [[chain[-1]["mean"]["bytes"]] for chain in by_chain.values() if chain[-1]["mean"] is not None]
        yield _node(samples, tuple(_chain(chain) for chain in by_chain.values())), images, means


def totals(entries: Sequence[Entry]) -> LayerTotals:
    """Sum up a layer: medians over its nodes, shares over its nodes or samples."""
    samples = sum(entry.samples for entry in entries)
    return LayerTotals(
        nodes=len(entries),
        samples=samples,
        converged=sum(entry.converged for entry in entries) / len(entries) if entries else math.nan,
        r_hat=_median(entry.r_hat for entry in entries),
        ess_bulk=_median(entry.ess_bulk for entry in entries),
        acceptance_rate=_median(entry.acceptance_rate for entry in entries),
        divergences=sum(entry.divergences for entry in entries),
        top_share=_top_share([entry for entry in entries if not math.isnan(entry.top_share)]),
    )


def _chain(samples: list[dict[str, Any]]) -> Chain:
    last = samples[-1]
    scores = tuple(sample["score"] for sample in samples)
    return Chain(
        number=last["chain"],
        draws=tuple(sample["draw"] for sample in samples),
        scores=scores,
        top_channels=tuple(sample["top_channel"] for sample in samples),
        acceptance_rate=last["acceptance_rate"],
        step_size=last["step_size"],
        gradients=last["gradients"],
        divergences=last["divergences"],
        score=statistics.fmean(scores),
        mean_score=last["mean_score"],
    )


def _node(samples: list[dict[str, Any]], chains: tuple[Chain, ...]) -> NodeEvidence:
    last = samples[-1]
    scores = [sample["score"] for sample in samples]
    lows, highs = ([sample[name] for sample in samples] for name in ("image_low", "image_high"))
    entry = Entry(
        **{name: last[name] for name in _OF_THE_NODE},
        stem=node_stem(last["node"], last["channel"]),
        samples=len(samples),
        score=statistics.fmean(scores),
        acceptance_rate=statistics.fmean(chain.acceptance_rate for chain in chains),
        divergences=sum(chain.divergences for chain in chains),
        converged=all(sample["converged"] for sample in samples),
        top_share=math.nan
        if without_layer(last["node"]).startswith("[")
        else sum(sample["top_channel"] == sample["channel"] for sample in samples) / len(samples),
        constant=len(samples) > 1 and len(set(scores)) == 1,
    )
    return NodeEvidence(entry, chains, last["model"], last["seed"], (min(lows), max(lows)), (min(highs), max(highs)))


def _top_share(entries: Sequence[Entry]) -> float:
    samples = sum(entry.samples for entry in entries)
    return sum(entry.top_share * entry.samples for entry in entries) / samples if samples else math.nan


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return statistics.median(known) if known else math.nan


_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_PLAIN_NODE = re.compile(r"\d+(?:@(\d+),(\d+))?")
_LONGEST = 80
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
"""Names that Windows keeps for devices, whatever follows their first dot."""
_OWN_FILES = {"index.html", "style.css", "gallery.json"}


def layer_folders(layers: Iterable[str]) -> dict[str, str]:
    """Return a folder name for each layer: the layer's own name wherever that is safe.

    Only ASCII letters, digits, ``.``, ``_`` and ``-`` remain. A name that had to be changed, or that differs from
    another only in case, ends in eight digits of its hash. The result depends only on the set of names.
    """
    names = sorted(set(layers))
    plain = {name: _plain_folder(name) for name in names}
    times = Counter(folder.casefold() for folder in plain.values())
    return {
        name: folder if folder == name and times[folder.casefold()] == 1 else f"{folder}-{_short_hash(name)}"
        for name, folder in plain.items()
    }


def node_stem(node: str, channel: int) -> str:
    """Return the stem of a node's files in its layer's folder: ``7``, or ``7_at_3_4`` for a position.

    Anything else behind the layer's name, as of a sum or a mean, keeps its safe letters and ends in eight digits of its
    hash: ``3_at_mean-1f0c2a7b``.
    """
    written = without_layer(node)
    known = _PLAIN_NODE.fullmatch(written)
    if known:
        return f"{channel}_at_{known[1]}_{known[2]}" if known[1] else str(channel)
    rest = _UNSAFE.sub("_", written.removeprefix(str(channel)).replace("@", "_at_")).strip("_")[:_LONGEST]
    return f"{channel}_{rest}-{_short_hash(written)}"


def _plain_folder(name: str) -> str:
    folder = _UNSAFE.sub("_", name).strip(".-")[:_LONGEST].rstrip(".") or "layer"
    lowered = folder.casefold()
    return f"_{folder}" if lowered.split(".")[0] in _RESERVED or lowered in _OWN_FILES else folder


def _short_hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
