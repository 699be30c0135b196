"""Reads every file of a run again, and finds what is torn, missing, unneeded or foreign."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from raygen.errors import StoreError
from raygen.notation import without_layer
from raygen.storage import Location
from raygen.store.request import Owner
from raygen.store.run import PLAN_FILE, Run
from raygen.store.samples import read_samples
from raygen.store.schema import SAMPLES
from raygen.store.unit import Unit


@dataclass(frozen=True)
class Findings:
    """What is wrong in a folder; files are named relative to it.

    Attributes:
        whole: how many files are as they should be.
        torn: files that are damaged, each with what is wrong.
        missing: how many files are not there; of a run that has just begun these are nearly all.
        first_missing: the names of the first ones.
        partial: what interrupted writes have left.
        unneeded: states of finished units, or of none, each with why it is not needed.
        foreign: files that do not belong to the run. They are never removed.
    """

    whole: int = 0
    torn: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    first_missing: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    unneeded: dict[str, str] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is torn or missing; partial, unneeded and foreign files do no harm."""
        return not self.torn and not self.missing

    @property
    def to_remove(self) -> tuple[str, ...]:
        """What ``mend_run`` removes: torn and partial files and unneeded states."""
        return (*self.torn, *self.partial, *self.unneeded)


NAMED = 20
"""Missing files that are named, at most."""


def verify_run(run: Run, on_unit: Callable[[int, int], None] | None = None) -> Findings:
    """Read every file of a run's plan, samples and states; nothing is changed.

    Args:
        run: whose files.
        on_unit: called after each unit with how many are read, and of how many.

    Raises:
        StoreError: if ``run.json`` is missing or damaged, which cannot be made again, or storage does not answer.
    """
    request = run.request["request"]
    location = run.location
    if not location.exists(PLAN_FILE):
        return Findings(missing=1, first_missing=(PLAN_FILE,), partial=_partial(location))
    try:
        plan = run.plan
        units = {unit.state_path: index for index, unit in enumerate(plan)}
    except StoreError as error:
        return Findings(torn={PLAN_FILE: error.what}, partial=_partial(location))
    files = {f"samples/{name}" for name in location.names("samples", recursive=True)}
    check, torn, whole, missing = UnitCheck(request, run.owner), dict[str, str](), 0, list[str]()
    lacking = 0
    for index, unit in enumerate(plan):
        if unit.path not in files:
            lacking += 1
            missing += [unit.path] if len(missing) < NAMED else []
        elif fault := _fault(check, run, unit):
            torn[unit.path] = fault
        else:
            whole += 1
        files.discard(unit.path)
        if on_unit is not None:
            on_unit(index + 1, len(plan))
    partial = _partial(location)
    return Findings(
        whole=whole,
        torn=torn,
        missing=lacking,
        first_missing=tuple(missing),
        partial=partial,
        unneeded=dict(_unneeded(run, units, torn)),
        foreign=tuple(sorted(files - set(partial))),
    )


def mend_run(location: Location, findings: Findings) -> int:
    """Remove torn and partial files and unneeded states, so that the run's command makes again what is needed.

    No file that is whole and needed is removed. The caller holds the folder's lock.

    Returns:
        How many files were removed.

    Raises:
        StoreError: if the storage refuses.
    """
    for name in findings.to_remove:
        location.remove(name)
    return len(findings.to_remove)


def _fault(check: UnitCheck, run: Run, unit: Unit) -> str:
    return "; ".join(check.faults(unit, run.location.read(unit.path)))


def _partial(location: Location) -> tuple[str, ...]:
    top = [name for name in location.names() if name.endswith(".tmp")]
    deeper = [f"{folder}/{name}" for folder in ("samples", "state") for name in location.names(folder, recursive=True)]
    return (*top, *(name for name in deeper if name.endswith(".tmp")))


def _unneeded(run: Run, units: dict[str, int], torn: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield states that are not needed. A torn one is ignored when its unit begins, so it is not needed either."""
    plan = run.plan
    for name in (f"state/{name}" for name in run.location.names("state", recursive=True)):
        if name.endswith(".tmp"):
            continue
        if name not in units:
            yield name, "of no unit"
            continue
        unit = plan[units[name]]
        if unit.path not in torn and run.location.exists(unit.path):
            yield name, "of a unit that is done"
        else:
            readable = None
            with contextlib.suppress(StoreError):
                readable = run.state(unit).read()
            if readable is None:
                yield name, "torn, or of another version"


Size = tuple[int, int]
"""Width and height in pixels."""


class UnitCheck:
    """Checks units of one run.

    Args:
        request: the run's, as ``run.json`` has it.
        owner: the run's.
    """

    def __init__(self, request: Mapping[str, Any], owner: Owner) -> None:
        self._owner = owner
        self._draws = int(request["settings"]["draws"])
        _, height, width = request["input_shape"]
        self._largest = (int(width), int(height))
        self._sizes: dict[tuple[str, str], Size] = {}

    def faults(self, unit: Unit, data: bytes) -> Iterator[str]:
        """Yield in words what is wrong with a unit's file; nothing if it is whole.

        Images of one layer must have one size: that of the first whole unit.

        Args:
            unit: whose file.
            data: its bytes.
        """
        try:
            samples = read_samples(data, unit.mark(self._owner), must=self._owner.marks_all)
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
        images += pc.struct_field(samples["mean"].drop_null(), "bytes").to_pylist()
        sizes = [_size(image) for image in images]
        broken = sum(size is None for size in sizes)
        if broken:
            yield f"{broken} of {len(sizes)} images cannot be decoded"
            return
        known = {size for size in sizes if size is not None}
        group = unit.layer, without_layer(unit.nodes[0]).partition("@")[2] if unit.nodes else ""
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
    for column in SAMPLES:
        if not column.nullable and samples[column.name].null_count:
            yield f"has {samples[column.name].null_count} samples without {column.name}"


_MOST_PIXELS = 2**26
"""Of a sample: a few kilobytes may stand for more than memory holds."""


def check_pixels(size: Size) -> None:
    """Refuse a picture that no sample is as large as, before it is decoded.

    Raises:
        ValueError: naming its size.
    """
    if size[0] * size[1] > _MOST_PIXELS:
        raise ValueError(f"{size[0]}x{size[1]} are more than {_MOST_PIXELS:,} pixels")


def _size(image: bytes | None) -> Size | None:
    """Return the size of a PNG, None where it is no whole one."""
    try:
        with Image.open(io.BytesIO(image or b""), formats=["PNG"]) as opened:
            check_pixels(opened.size)
            opened.load()
            return opened.size
    except Exception:  # a torn picture may raise anything in its reader
        return None


def _name(unit: Unit, sample: tuple[int, int, int]) -> str:
    node, chain, draw = sample
    return f"{unit.nodes[node]} chain {chain} draw {draw}"


def _sizes(sizes: Sequence[Size] | set[Size]) -> str:
    return ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
