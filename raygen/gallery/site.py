"""The site's files: pictures, pages and the machine-readable index, written through the run's storage."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from raygen.gallery.exhibits import Exhibit, Layer
from raygen.gallery.facts import facts, limits, network_name, redraw_command
from raygen.gallery.pages import environment, render
from raygen.gallery.pictures import TILE_CHAINS, contact_sheet
from raygen.gallery.trace import trace
from raygen.storage import Location, below

_SCHEMA = 2
"""Of ``gallery.json``. In version 1 some names differed: ``ess``, ``stopped``, ``wins``, ``flat``."""


@dataclass(frozen=True)
class Site:
    """A gallery's folder; ``document`` is the run's ``run.json``, ``title`` its network."""

    place: Location
    document: Mapping[str, Any]
    title: str
    env: jinja2.Environment

    @classmethod
    def begin(cls, place: Location, document: Mapping[str, Any]) -> Site:
        """Write the style sheet.

        Raises:
            StoreError: if the folder cannot be written; the same holds for every other method.
        """
        site = cls(place, document, network_name(document), environment())
        site._page("style.css", "style.css")
        return site

    def write_pictures(self, folder: str, exhibit: Exhibit) -> Exhibit:
        """Write a node's tile and sheet; return the exhibit without the sheet's bytes."""
        stem, sheet = exhibit.entry.stem, exhibit.sheet
        self.place.write(f"{folder}/{stem}.tile.png", exhibit.tile.png)
        self.place.write(f"{folder}/{stem}.png", sheet.picture.png)
        picture = dataclasses.replace(sheet.picture, png=b"")
        return dataclasses.replace(exhibit, sheet=dataclasses.replace(sheet, picture=picture))

    def write_layer(self, layer: Layer, exhibits: Sequence[Exhibit]) -> None:
        """Write a layer's page, its contact sheet and its nodes' pages; nothing where it has no nodes yet."""
        if not exhibits:
            return
        chains = min(TILE_CHAINS, max(len(exhibit.node.chains) for exhibit in exhibits))
        drawn = f"last draw of {chains} chains each" if chains > 1 else "last draw each"
        title = f"{exhibits[0].node.model}, {layer.name}: {len(exhibits):,} nodes, {drawn}"
        tiles = [(exhibit.entry.label, exhibit.tile.png) for exhibit in exhibits]
        self.place.write(f"{layer.folder}/contact_sheet.png", contact_sheet(title, tiles))
        self._page(f"{layer.folder}/index.html", "layer.html", layer=layer, drawn=drawn)
        for at, exhibit in enumerate(exhibits):
            command = redraw_command(self.document, exhibit.entry.node, layer.name)
            self._page(
                f"{layer.folder}/{exhibit.entry.stem}.html",
                "node.html",
                layer=layer,
                exhibit=exhibit,
                trace=trace(exhibit.node.chains),
                weights=any(word.startswith("--weights ") for word in command),
                limits=limits(self.document),
                command=command,
                before=exhibits[at - 1].entry if at else None,
                after=exhibits[at + 1].entry if at + 1 < len(exhibits) else None,
            )

    def write_index(self, layers: Sequence[Layer]) -> str:
        """Write ``gallery.json`` and ``index.html``; return the index's path or URI."""
        self.place.write("gallery.json", json.dumps(self._index(layers), indent=1, allow_nan=False).encode())
        first, rest = facts(self.document)
        self._page("index.html", "index.html", layers=layers, first=first, rest=rest)
        return below(self.place.text, "index.html")

    def _page(self, name: str, template: str, **values: Any) -> None:
        self.place.write(name, render(self.env, template, title=self.title, **values))

    def _index(self, layers: Sequence[Layer]) -> dict[str, Any]:
        return {
            "schema": _SCHEMA,
            "network": self.title,
            "run": _plain(self.document),
            "layers": [_layer_entry(layer) for layer in layers],
            "missing": [unit.name for layer in layers for unit in layer.missing],
            "torn": [path for layer in layers for path in layer.torn],
        }


def _layer_entry(layer: Layer) -> dict[str, Any]:
    folder = layer.folder
    return {
        "layer": layer.name,
        "planned": layer.planned,
        "page": f"{folder}/index.html" if layer.tiles else None,
        "contact_sheet": f"{folder}/contact_sheet.png" if layer.tiles else None,
        **_plain(dataclasses.asdict(layer.totals)),
        "nodes": [
            {
                **_plain(dataclasses.asdict(tile.entry)),
                "page": f"{folder}/{tile.entry.stem}.html",
                "tile": f"{folder}/{tile.entry.stem}.tile.png",
                "sheet": f"{folder}/{tile.entry.stem}.png",
            }
            for tile in layer.tiles
        ],
    }


def _plain(value: Any) -> Any:
    # JSON has no NaN and no infinity.
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
