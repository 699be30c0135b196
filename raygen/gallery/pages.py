"""The pages: templates with every value escaped, and the files of the site, written through the run's storage."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup, escape

from raygen.gallery.exhibits import Exhibit, Layer
from raygen.gallery.facts import facts, limits, network_name, redraw_command
from raygen.gallery.pictures import TILE_CHAINS, contact_sheet, trace
from raygen.storage import Location, below
from raygen.store import seeks_modes
from raygen.text import for_page, without_secrets

NOTHING = "\N{EN DASH}"

_SCHEMA = 2
"""Of ``gallery.json``. In version 1 some names differed: ``ess``, ``stopped``, ``wins``, ``flat``."""


@dataclass(frozen=True)
class Site:
    """A gallery's folder at ``location``; ``document`` is the run's ``run.json``, ``title`` its network."""

    location: Location
    document: Mapping[str, Any]
    title: str
    env: jinja2.Environment

    @classmethod
    def begin(cls, location: Location, document: Mapping[str, Any]) -> Site:
        """Write the style sheet.

        Raises:
            StoreError: if the folder cannot be written; the same holds for every other method.
        """
        site = cls(location, document, network_name(document), _environment())
        site._page("style.css", "style.css")
        return site

    def write_pictures(self, folder: str, exhibit: Exhibit) -> Exhibit:
        """Write a node's tile and sheets; return the exhibit without the sheets' bytes."""
        stem = exhibit.entry.stem
        self.location.write(f"{folder}/{stem}.tile.png", exhibit.tile.png)
        self.location.write(f"{folder}/{stem}.png", exhibit.sheet.picture.png)
        if exhibit.means is not None:
            self.location.write(f"{folder}/{stem}.mean.png", exhibit.means.picture.png)
        means = None if exhibit.means is None else exhibit.means.without_bytes()
        return dataclasses.replace(exhibit, sheet=exhibit.sheet.without_bytes(), means=means)

    def write_layer(self, layer: Layer, exhibits: Sequence[Exhibit]) -> None:
        """Write a layer's page, its contact sheet and its nodes' pages; nothing where it has no nodes yet."""
        if not exhibits:
            return
        chains = min(TILE_CHAINS, max(len(exhibit.node.chains) for exhibit in exhibits))
        what = "mode" if seeks_modes(self.document) else "last draw"
        drawn = f"{what} of each of {chains} chains" if chains > 1 else what
        title = f"{exhibits[0].node.model}, {layer.name}: {len(exhibits):,} nodes, {drawn}"
        tiles = [(exhibit.entry.label, exhibit.tile.png) for exhibit in exhibits]
        self.location.write(f"{layer.folder}/contact_sheet.png", contact_sheet(title, tiles))
        self._page(f"{layer.folder}/index.html", "layer.html", layer=layer, drawn=drawn)
        for index, exhibit in enumerate(exhibits):
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
                before=exhibits[index - 1].entry if index else None,
                after=exhibits[index + 1].entry if index + 1 < len(exhibits) else None,
            )

    def write_index(self, layers: Sequence[Layer]) -> str:
        """Write ``gallery.json`` and ``index.html``; return the index's path or URI."""
        self.location.write("gallery.json", json.dumps(self._index(layers), indent=1, allow_nan=False).encode())
        first, rest = facts(self.document)
        self._page("index.html", "index.html", layers=layers, first=first, rest=rest)
        return below(self.location.text, "index.html")

    def _page(self, name: str, template: str, **values: Any) -> None:
        modes = seeks_modes(self.document)
        self.location.write(name, _render(self.env, template, title=self.title, modes=modes, **values))

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
                "means": f"{folder}/{tile.entry.stem}.mean.png" if tile.has_means else None,
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
    if isinstance(value, str):
        return without_secrets(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _environment() -> jinja2.Environment:
    """Return the templates with the gallery's filters. Values are made fit for a page; undefined ones are errors."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("raygen.gallery", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "number": number,
        "ratio": ratio,
        "percent": percent,
        "count": count,
        "sortable": sortable,
        "breakable": breakable,
    }
    return env


def _shown(value: Any) -> Any:
    return for_page(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def number(value: float) -> str:
    """Return three significant digits, whole from 1,000 on; a dash where there is no number."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}", 1) if text.startswith("-") else text


def ratio(value: float) -> str:
    """Return an R-hat: what matters is its distance from 1, in the second decimal."""
    if not math.isfinite(value):
        return NOTHING
    return f"{value:.3f}" if value < 10 else number(value)


def percent(value: float) -> str:
    """Return a share as a percentage; only all is 100 %, only none is 0 %."""
    if not math.isfinite(value):
        return NOTHING
    whole = round(100 * value)
    if 0 < value < 1:
        whole = min(99, max(1, whole))
    return f"{whole} %"


def count(value: int, noun: str = "", plural: str = "") -> str:
    """Return a count with its noun, singular or plural: ``1 node``, ``1,200 nodes``."""
    if not noun:
        return f"{value:,}"
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def sortable(value: float) -> str:
    """Return a number for scripts; empty where there is none."""
    return repr(float(value)) if math.isfinite(value) else ""


def breakable(name: str) -> Markup:
    """Return a name, escaped, that may be broken after its dots, colons, slashes and underscores."""
    return Markup("<wbr>").join(escape(part) for part in re.findall(r"[^.:/_]*[.:/_]+|[^.:/_]+", for_page(name)))


def _render(env: jinja2.Environment, template: str, **values: Any) -> bytes:
    """Return a page as UTF-8."""
    return env.get_template(template).render(**values).encode("utf-8", "replace")
