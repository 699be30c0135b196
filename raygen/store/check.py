"""Whether a unit's file is whole: readable to its last byte, with every sample of every chain once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from raygen.store.plan import Unit
from raygen.store.samples import read_samples
from raygen.store.schema import SAMPLES

Size = tuple[int, int]
"""Width and height in pixels."""


class UnitCheck:
    """Checks units of one run.

    Args:
        request: the run's, as ``run.json`` has it.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._draws = int(request["settings"]["draws"])
        _, height, width = request["input_shape"]
        self._largest = (int(width), int(height))
        self._sizes: dict[tuple[str, str], Size] = {}

    def faults(self, unit: Unit, data: bytes) -> Iterator[str]:
        """Yield what is wrong with a unit's file, in words; nothing if it is whole.

        Images of one layer must be of one size, which is the first whole unit's.

        Args:
            unit: whose file.
            data: its bytes.
        """
        try:
            samples = read_samples(data, thorough=True)
        except ValueError as error:
            yield str(error)
            return
        if not samples.schema.equals(SAMPLES):
            yield "has other columns than samples have"
            return
        found = [*self._rows(unit, samples), *_values(samples), *self._images(unit, samples)]
        yield from found

    def _rows(self, unit: Unit, samples: pa.Table) -> Iterator[str]:
        """Check that each chain of each node has each draw once; of a dead node there is one."""
        nodes = pc.index_in(samples["node"], value_set=pa.array(unit.nodes)).to_pylist()
        if None in nodes:
            yield "holds samples of nodes of another unit"
            return
        if pc.any(pc.not_equal(samples["layer"], unit.layer)).as_py():
            yield f"holds samples of another layer than {unit.layer}"
        dead = {node for node, reason in zip(nodes, samples["dead"].to_pylist(), strict=True) if reason is not None}
        expected = {
            (node, chain, draw)
            for node in range(len(unit.nodes))
            for chain in range(unit.chains)
            for draw in range(1 if node in dead else self._draws)
        }
        rows = list(zip(nodes, samples["chain"].to_pylist(), samples["draw"].to_pylist(), strict=True))
        if missing := expected - set(rows):
            yield f"lacks {len(missing)} of {len(expected)} samples, such as {_name(unit, min(missing))}"
        if extra := set(rows) - expected:
            yield f"has {len(extra)} samples too many, such as {_name(unit, min(extra))}"
        if len(rows) > len(set(rows)):
            yield f"has {len(rows) - len(set(rows))} samples twice"

    def _images(self, unit: Unit, samples: pa.Table) -> Iterator[str]:
        """Check that all images are whole PNGs of one size, which fits in the network's input."""
        images = pc.struct_field(samples["image"], "bytes").to_pylist()
        sizes = [_size(image) for image in images]
        broken = sum(size is None for size in sizes)
        if broken:
            yield f"{broken} of {len(sizes)} images cannot be decoded"
            return
        known = {size for size in sizes if size is not None}
        group = unit.layer, unit.nodes[0].partition("@")[2] if unit.nodes else ""
        first = self._sizes.get(group) or next(iter(sorted(known)), None)
        if known - {first}:
            yield f"has images of {_sizes(known)}" + (f" where others have {_sizes([first])}" if first else "")
        elif first is not None and (first[0] > self._largest[0] or first[1] > self._largest[1]):
            yield f"has images of {_sizes([first])}, more than the network's input of {_sizes([self._largest])}"
        elif first is not None:
            self._sizes[group] = first


def _values(samples: pa.Table) -> Iterator[str]:
    for name in ("score", "potential", "tilt"):
        bad = int((~np.isfinite(samples[name].to_numpy())).sum())
        if bad:
            yield f"has {bad} samples whose {name} is not finite"
    for field in SAMPLES:
        if not field.nullable and samples[field.name].null_count:
            yield f"has {samples[field.name].null_count} samples without {field.name}"


def _size(image: bytes | None) -> Size | None:
    """Return the size of a PNG, None where it is no whole one."""
    try:
        with Image.open(io.BytesIO(image or b""), formats=["PNG"]) as opened:
            opened.load()
            return opened.size
    except Exception:  # a torn picture may raise anything in its reader
        return None


def _name(unit: Unit, sample: tuple[int, int, int]) -> str:
    node, chain, draw = sample
    return f"{unit.nodes[node]} chain {chain} draw {draw}"


def _sizes(sizes: Sequence[Size] | set[Size]) -> str:
    return ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
