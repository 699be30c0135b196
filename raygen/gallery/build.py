"""The gallery of a run: read unit by unit, written layer by layer, the index last."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from raygen.errors import StoreError
from raygen.gallery.evidence import layer_folders
from raygen.gallery.exhibits import Exhibit, Layer, Tile, read_unit
from raygen.gallery.pages import Site
from raygen.store import Run, Unit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GallerySummary:
    """What was made.

    Attributes:
        index: path or URI of ``index.html``.
        layers: layers with a page.
        nodes: nodes with a page.
        samples: samples of these nodes.
        missing: names of the planned units that are not yet done.
        torn: files that cannot be read, relative to the run.
    """

    index: str
    layers: int
    nodes: int
    samples: int
    missing: tuple[str, ...]
    torn: tuple[str, ...]


def build_gallery(run: Run) -> GallerySummary:
    """Make the gallery of a run, in the run's folder ``gallery``; an existing one is written anew.

    One unit's samples and one layer's tiles are in memory at a time. What is missing or torn is left out, and named
    on the pages and in the summary.

    Raises:
        StoreError: if the run's plan cannot be read, or the gallery cannot be written.
    """
    plan, units_of = run.plan, dict[str, list[Unit]]()
    done = {unit.name for unit in compress(plan, run.done(plan))}
    for unit in plan:
        units_of.setdefault(unit.layer, []).append(unit)
    folders = layer_folders(units_of)
    site = Site.begin(run.location.within("gallery"), run.request)
    layers = [_build_layer(run, site, name, folders[name], units, done) for name, units in units_of.items()]
    index = site.write_index(layers)
    return GallerySummary(
        index=index,
        layers=sum(bool(layer.tiles) for layer in layers),
        nodes=sum(len(layer.tiles) for layer in layers),
        samples=sum(layer.totals.samples for layer in layers),
        missing=tuple(unit.name for layer in layers for unit in layer.missing),
        torn=tuple(path for layer in layers for path in layer.torn),
    )


def _build_layer(run: Run, site: Site, name: str, folder: str, units: Sequence[Unit], done: set[str]) -> Layer:
    planned = sum(len(unit.nodes) for unit in units)
    exhibits: dict[str, Exhibit] = {}
    torn: list[str] = []
    for unit in units:
        if unit.name not in done:
            continue
        try:
            read = read_unit(run, unit, planned)
        except StoreError as error:
            log.warning("left out: %s", error)
            torn.append(unit.path)
            continue
        for exhibit in read:
            exhibits[exhibit.entry.stem] = site.write_pictures(folder, exhibit)
    ordered = [exhibits[stem] for stem in sorted(exhibits, key=_by_channel)]
    layer = Layer(
        name=name,
        folder=folder,
        planned=planned,
        tiles=tuple(Tile.of(exhibit) for exhibit in ordered),
        missing=tuple(unit for unit in units if unit.name not in done),
        torn=tuple(torn),
    )
    site.write_layer(layer, ordered)
    log.info("layer %s: %d of %d nodes shown", name, len(ordered), layer.planned)
    return layer


def _by_channel(stem: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers within stems as numbers."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in stem.split("_")]
