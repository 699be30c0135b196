"""Real runs on disk: plan, Parquet files and PNG images as the sampler writes them, with known numbers."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raygen.networks import Node, read_node
from raygen.store import SAMPLES, Run, Unit

REQUEST = {
    "network": "lenet",
    "weights_hash": "0123456789abcdef" * 4,
    "nodes": "conv1:0-2",
    "data": None,
    "settings": {
        "reference": "white",
        "sigma": 10.0,
        "contrast": 4.0,
        "tilt": None,
        "kernel": "rotation",
        "steps": 8,
        "adjusted": True,
        "each_chain": False,
        "warm_up": 100,
        "chains": 4,
        "draws": 6,
        "thin": 10,
        "r_hat": 1.05,
        "ess": 50,
        "seed": 7,
    },
    "profile": {},
}


def png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def blob(rng: np.random.Generator, size: int, channels: int) -> np.ndarray:
    """A bright spot on noise, somewhere."""
    shape = (size, size) if channels == 1 else (size, size, channels)
    place = rng.uniform(0.3, 0.7, 2) * size
    down, across = np.mgrid[:size, :size]
    spot = np.exp(-((down - place[0]) ** 2 + (across - place[1]) ** 2) / (2 * (0.15 * size) ** 2))
    colour = rng.uniform(0.3, 1.0, channels)
    light = spot if channels == 1 else spot[..., None] * colour
    return np.clip(rng.normal(90, 25, shape) + 150 * light, 0, 255).astype(np.uint8)


@dataclass
class LayerOf:
    """A layer to be made: its nodes and what their numbers are."""

    name: str = "conv1"
    channels: int = 3
    size: int = 12
    colours: int = 1
    chains: int = 4
    draws: int = 6
    classes: Sequence[str] | None = None
    position: tuple[int, int] | None = None
    per_unit: int = 4
    unit_names: list[str] = field(default_factory=list)

    def units(self) -> list[Unit]:
        groups = [range(self.channels)[at : at + self.per_unit] for at in range(0, self.channels, self.per_unit)]
        label = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in self.name)
        kind = "at_" if self.position else ""
        self.unit_names = [f"{label}-{len(self.name)}-{kind}{at}" for at in range(len(groups))]
        return [
            Unit(name, self.name, tuple(str(Node(self.name, channel, self.position)) for channel in group), self.chains)
            for name, group in zip(self.unit_names, groups, strict=True)
        ]


def channels_of(unit: Unit) -> list[int]:
    return [read_node(text).channel for text in unit.nodes]


def mean_of(layer: LayerOf, channel: int, chain: int) -> dict[str, object]:
    """A grey image, and a score of 100 c + chain."""
    shape = (layer.size, layer.size) if layer.colours == 1 else (layer.size, layer.size, layer.colours)
    image = {"bytes": png(np.full(shape, 40 + 20 * (chain % 10), np.uint8)), "path": None}
    return {"mean": image, "mean_low": 0.0, "mean_high": 1.0, "mean_score": 100.0 * channel + chain}


def rows_of(layer: LayerOf, unit: Unit) -> pa.Table:
    """The unit's samples. Known numbers: channel c has R-hat 1 + c/100, ESS 100 + c, and even channels converged."""
    rng = np.random.default_rng([sum(map(ord, unit.name)), *channels_of(unit)])
    place = f"@{layer.position[0]},{layer.position[1]}" if layer.position else ""
    rows = [
        {
            "model": "lenet",
            "node": f"{layer.name}:{channel}{place}",
            "layer": layer.name,
            "channel": channel,
            "class_name": layer.classes[channel] if layer.classes else None,
            "chain": chain,
            "draw": draw,
            "image": {"bytes": png(blob(rng, layer.size, layer.colours)), "path": None},
            "image_low": -0.25,
            "image_high": 1.25,
            "score": 10.0 * (channel % 7) + chain + draw / 10,
            "potential": -5.0,
            "top_channel": channel if chain % 2 == 0 else (channel + 1) % layer.channels,
            "tilt": 1.5,
            "contrast": 3.0,
            "acceptance_rate": 0.8,
            "step_size": 0.05,
            "gradients": 1200,
            "divergences": chain % 2,
            "r_hat": 1 + channel / 100,
            "ess_bulk": 100.0 + channel,
            "converged": channel % 2 == 0,
            "barrier": 3.25,
            "seed": 7,
            **(mean_of(layer, channel, chain) if draw == layer.draws - 1 else {}),
        }
        for channel in channels_of(unit)
        for chain in range(layer.chains)
        for draw in range(layer.draws)
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def make_run(folder: Path, layers: Sequence[LayerOf], *, skip: Sequence[str] = (), **request: object) -> Run:
    plan = [(layer, unit) for layer in layers for unit in layer.units()]
    about = {"raygen": "0.1.0", "torch": "2.15", "weights": "trained/lenet.safetensors"}
    run = Run.begin(str(folder), REQUEST | request, [unit for _, unit in plan], about=about)
    for layer, unit in plan:
        if unit.name not in skip:
            run.commit(unit, rows_of(layer, unit))
    return run


@pytest.fixture(scope="session")
def make_at() -> Callable[..., Run]:
    return make_run


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Run]:
    def build(*layers: LayerOf, **options: object) -> Run:
        return make_run(tmp_path / "run", layers, **options)

    return build


@pytest.fixture(scope="session")
def layer_of() -> type[LayerOf]:
    return LayerOf


@pytest.fixture(scope="session")
def table_of() -> Callable[[LayerOf, Unit], pa.Table]:
    return rows_of


@pytest.fixture(scope="session")
def png_of() -> Callable[[np.ndarray], bytes]:
    return png
