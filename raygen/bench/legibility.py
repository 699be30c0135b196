"""``raygen bench legibility``: how legible draws are, beside an optimiser's images and natural ones."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.utils import make_grid

from raygen.bench.fourier_optimiser import optimise
from raygen.bench.legibility_measures import (
    Queries,
    Viewer,
    choose_queries,
    diversity,
    interpretability,
    ranks,
    standardised,
    top,
)
from raygen.bench.legibility_table import KindMeasured, Measures, over_nodes
from raygen.bench.loops import find_device, usable_cores
from raygen.bench.settings import LegibilityBenchSettings
from raygen.data import DataSettings, load_data
from raygen.errors import SettingsError
from raygen.networks import (
    Network,
    NodeScores,
    cut_for,
    list_layers,
    load_network,
    parse_nodes,
    score_nodes,
)
from raygen.notation import Node
from raygen.process import keep_freed_memory
from raygen.runs import plan_units
from raygen.sampling import SamplingSettings, SavedReference, Source, UnitSampler
from raygen.stages import load_sampled, sampling_settings
from raygen.storage import Location
from raygen.store import Unit

OPTIMISER = "optimiser"
"""The kind that the others are compared with: as many gradients as the draws."""

_USUAL = 256
"""Steps of an optimiser whose images are looked at as they come."""

_COLUMNS: Mapping[str, str] = {"draws": "image", "means": "mean"}
"""Kinds that the sampler makes, and the samples' column that holds them, in the row of each chain's last draw. A unit
whose chains lack one, as dead nodes' do, is left out of that kind."""

_AT_ONCE = 100
"""Natural images of one pass."""


@dataclass(frozen=True)
class Made:
    """Images of one kind of one unit's nodes.

    Attributes:
        kind: its name.
        images: of each node in turn, (n, C, h, w), pixels from 0 to 1.
        gradients: of the network, for each image.
        seconds: of all nodes together.
    """

    kind: str
    images: tuple[Tensor, ...]
    gradients: float
    seconds: float


class LayerBench:
    """What is the same for all kinds of images of a unit's nodes: scores, natural images, questions.

    Args:
        network: sampled; its module on the device.
        unit: whose nodes.
        settings: of the bench.
        natural: (M, C, H, W) of the network's input shape, pixels from 0 to 1.
    """

    def __init__(self, network: Network, unit: Unit, settings: LegibilityBenchSettings, natural: Tensor) -> None:
        self.network = network
        self.nodes: tuple[Node, ...] = unit.parsed
        self.scores: NodeScores = score_nodes(
            cut_for(network, self.nodes[0], crop=settings.crop), self.nodes, settings.chains
        ).to(natural.device)
        self.natural = crops(natural, self.scores.input_shape, settings.seed)
        self._natural_responses = self.responses(self.natural)
        self.queries: tuple[Queries, ...] = tuple(
            choose_queries(self._of_node(self._natural_responses, node), settings.questions) for node in self.nodes
        )

    def responses(self, images: Tensor) -> Tensor:
        """Return the responses of all channels of the layer to images with pixels from 0 to 1, (N, channels)."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.network.mean, self.network.std))
        with torch.no_grad():
            return torch.cat([self.scores.responses((part - mean) / std) for part in torch.split(images, _AT_ONCE)])

    def specificity(self, node: Node, images: Tensor) -> float:
        """Return the median rank of a node among its layer's channels; NaN for a sum of channels."""
        if node.terms:
            return math.nan
        found = standardised(self.responses(images), self._natural_responses)
        return float(ranks(found, torch.full((len(images),), node.channel, device=images.device)).median())

    def _of_node(self, responses: Tensor, node: Node) -> Tensor:
        terms = node.terms or ((node.channel, 1.0),)
        return torch.stack([weight * responses[:, channel] for channel, weight in terms]).sum(0)


def bench_legibility(settings: LegibilityBenchSettings) -> Iterator[KindMeasured]:
    """Sample nodes, optimise them, and yield what a second network makes of either and of natural images.

    At the end, the table and a sheet of each kind's images lie in the folder ``out``.

    Raises:
        SettingsError: if the device is not there, or there are too few natural images.
        InputError: as ``raygen sample`` does, for the network, the nodes, the data and the folder.
    """
    device, location = find_device(settings.device), Location.of(settings.out)
    torch.set_num_threads(settings.threads or usable_cores())
    keep_freed_memory()
    network, second = load_sampled(settings, settings.nodes), load_network(settings.second())
    nodes = parse_nodes(settings.nodes, network, list_layers(network))
    sets = load_data(DataSettings.part_of(settings), network.input_shape)
    natural = torch.cat([each.images for each in sets]).to(device).float() / 255
    _check(settings, natural)
    sampling = sampling_settings(settings, network, nodes)
    settings = settings.model_copy(update={"chains": sampling.chains})
    network.module.to(device), second.module.to(device)
    source: Source = sets[0] if settings.reference == "fitted" else None
    if settings.reference_file is not None:
        source = SavedReference.read(settings.reference_file)
    sampler = UnitSampler(network, sampling, source, device)
    asked = SamplingSettings.part_of(settings).of_modes()
    seeker = UnitSampler(network, sampling_settings(asked, network, nodes), source, device)
    units = tuple(plan_units(nodes, chains=sampling.chains, batch=sampling.together))
    benches = [LayerBench(network, unit, settings, natural) for unit in units]
    made = [
        _make(bench, unit, sampler, settings, views=max(1, sampling.views)) | _seek(bench, unit, seeker)
        for bench, unit in zip(benches, units, strict=True)
    ]
    measured = []
    for kind in dict.fromkeys(kind for unit in made for kind in unit):
        parts = [(unit[kind], bench) for unit, bench in zip(made, benches, strict=True) if kind in unit]
        found = _measure(kind, parts, Viewer.of(network), Viewer.of(second))
        location.write(f"{kind.replace(' ', '-')}.png", sheet([images for part, _ in parts for images in part.images]))
        measured.append(found)
        yield found
    location.write("legibility.json", json.dumps([found.document() for found in measured], indent=1).encode())


def _check(settings: LegibilityBenchSettings, natural: Tensor) -> None:
    least = 3 * settings.questions
    if len(natural) < least:
        what = f"{len(natural)} natural images for {settings.questions} questions, which take {least}"
        raise SettingsError(what, where="bench legibility", right="give more images, or fewer --questions")


def _make(
    bench: LayerBench, unit: Unit, sampler: UnitSampler, settings: LegibilityBenchSettings, *, views: int
) -> dict[str, Made]:
    """Return images of all kinds of a unit's nodes, by kind; a chain's gradient is as many as it has views."""
    start = time.perf_counter()
    rows = sampler.sample(unit)
    seconds = time.perf_counter() - start
    gradients = float(np.mean(rows["gradients"].to_numpy())) * views
    device = bench.natural.device
    last = last_draws(rows)
    kinds = {
        kind: Made(
            kind, tuple(pictures(last, str(node), column).to(device) for node in bench.nodes), gradients, seconds
        )
        for kind, column in _COLUMNS.items()
        if all(row[column] is not None for row in last)
    }
    budget = settings.gradients_each or max(1, round(gradients))
    for kind, most, limit in (
        (OPTIMISER, budget, math.inf),
        (f"{OPTIMISER} at {_USUAL}", _USUAL, math.inf),
        (f"{OPTIMISER} in the time", 10**9, seconds),
    ):
        done = optimise(bench.scores, bench.network, gradients=most, seconds=limit, seed=settings.seed)
        images = torch.split(done.images, settings.chains)
        kinds[kind] = Made(kind, images, done.gradients, done.seconds)
    shown = tuple(bench.natural[found.shown[: settings.chains]] for found in bench.queries)
    kinds["natural"] = Made("natural", shown, 0, 0)
    return kinds


def _seek(bench: LayerBench, unit: Unit, seeker: UnitSampler) -> dict[str, Made]:
    """Return the modes that ``raygen look`` finds; none where a node is dead."""
    start = time.perf_counter()
    rows = seeker.sample(unit)
    seconds, last, device = time.perf_counter() - start, last_draws(rows), bench.natural.device
    images = tuple(pictures(last, str(node), "image").to(device) for node in bench.nodes)
    made = Made("modes", images, float(np.mean(rows["gradients"].to_numpy())), seconds)
    return {made.kind: made} if all(row["dead"] is None for row in last) else {}


def last_draws(rows: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of the last draw of each chain of each node; the samples are ordered by node, chain and draw."""
    return list({(row["node"], row["chain"]): row for row in rows.to_pylist()}.values())


def pictures(rows: list[dict[str, Any]], node: str, column: str) -> Tensor:
    """Return the images of a node's rows, (n, C, h, w), pixels from 0 to 1; what is beyond is cut off.

    Args:
        rows: of draws.
        node: its name.
        column: of the image; columns of its name with ``_low`` and ``_high`` hold the pixel values shown as 0 and 255.
    """
    images = []
    for row in (each for each in rows if each["node"] == node):
        with Image.open(io.BytesIO(row[column]["bytes"])) as picture:
            values = torch.from_numpy(np.array(picture)).float() / 255
        values = values[None] if values.ndim == 2 else values.permute(2, 0, 1)
        low, high = row[f"{column}_low"], row[f"{column}_high"]
        images.append((low + (high - low) * values).clamp(0, 1))
    return torch.stack(images)


def crops(images: Tensor, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Return a part of each image (M, C, H, W), of ``shape`` (C, h, w), somewhere in it; the whole where it fits."""
    _, height, width = shape
    down, across = images.shape[2] - height, images.shape[3] - width
    draws = torch.rand((len(images), 2), generator=torch.Generator().manual_seed(seed)).tolist()
    corners = [(int(y * (down + 1)), int(x * (across + 1))) for y, x in draws]
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(images, corners, strict=True)])


def _measure(kind: str, parts: list[tuple[Made, LayerBench]], own: Viewer, second: Viewer) -> KindMeasured:
    nodes: dict[str, Measures] = {}
    for part, bench in parts:
        for node, images, queries in zip(bench.nodes, part.images, bench.queries, strict=True):
            strong, weak = (second.features(bench.natural[chosen]) for chosen in (queries.strong, queries.weak))
            features, seen = second.features(images), _class_ranks(second, own.network, node, images)
            ranked = _class_ranks(own, own.network, node, images)
            nodes[str(node)] = Measures(
                second_top_1=_top(seen, 1),
                second_top_5=_top(seen, 5),
                second_rank=_median(seen),
                own_top_1=_top(ranked, 1),
                own_rank=_median(ranked),
                specificity=bench.specificity(node, images),
                diversity=diversity(features),
                interpretability=interpretability(features, strong, weak),
            )
    return KindMeasured(
        kind=kind,
        images=sum(len(images) for part, _ in parts for images in part.images),
        gradients=float(np.mean([part.gradients for part, _ in parts])),
        seconds=sum(part.seconds for part, _ in parts),
        measures=over_nodes(tuple(nodes.values())),
        nodes=nodes,
    )


def _class_ranks(viewer: Viewer, sampled: Network, node: Node, images: Tensor) -> Tensor:
    """Return the ranks that a viewer gives the node's class; none where it is no class, or the viewer lacks it."""
    classes = {layer.name for layer in list_layers(sampled) if layer.is_classes}
    if node.layer not in classes or node.terms:
        return images.new_zeros(0)
    names, name = viewer.network.class_names, sampled.class_names[node.channel]
    if name not in names:
        return images.new_zeros(0)
    responses = viewer.responses(images)
    return ranks(responses, torch.full((len(images),), names.index(name), device=images.device))


def _top(found: Tensor, count: int) -> float:
    return top(found, count) if len(found) else math.nan


def _median(found: Tensor) -> float:
    return float(found.quantile(0.5)) if len(found) else math.nan


def sheet(rows: list[Tensor]) -> bytes:
    """Return a PNG of images (n, C, h, w), a line for each node; small ones are enlarged to the size of the largest."""
    side, most = max(max(row.shape[2:]) for row in rows), max(map(len, rows))
    cells = []
    for row in rows:
        large = functional.interpolate(row.cpu(), (side, side), mode="nearest")
        blank = large.new_ones((most - len(row), *large.shape[1:]))
        cells.append(torch.cat([large, blank]))
    array = (make_grid(torch.cat(cells), nrow=most, pad_value=1).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, format="PNG")
    return sink.getvalue()
