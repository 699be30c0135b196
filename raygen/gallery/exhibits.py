"""What is shown of a node: its evidence and its pictures, read from one unit; and of a layer, as far as it is done."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pyarrow as pa
from PIL import Image

from raygen.errors import StoreError
from raygen.gallery.evidence import Entry, LayerTotals, NodeEvidence, read_nodes, totals
from raygen.gallery.pictures import Picture, Sheet, sheet, spread, tile
from raygen.store import SAMPLES, Run, Unit

_STRIP = 24
"""Nodes of a layer on the index, at most."""
_MOST_LARGE = 12
"""Up to this number of nodes, as the classes of digits, a layer's tiles are shown larger."""


@dataclass(frozen=True)
class Exhibit:
    """A node, its tile, the sheet of its draws and that of its chains' means, where there are some."""

    node: NodeEvidence
    tile: Picture
    sheet: Sheet
    means: Sheet | None

    @property
    def entry(self) -> Entry:
        """The node's line in the index."""
        return self.node.entry


@dataclass(frozen=True)
class Tile:
    """What is left of an exhibit for the index: numbers, and the size of a picture that is on storage."""

    entry: Entry
    picture: Picture
    has_means: bool

    @classmethod
    def of(cls, exhibit: Exhibit) -> Tile:
        """Return the exhibit's numbers, and its tile without the bytes."""
        return cls(exhibit.entry, dataclasses.replace(exhibit.tile, png=b""), exhibit.means is not None)


@dataclass(frozen=True)
class Layer:
    """A layer and how much of it is there.

    Attributes:
        name: the layer's dotted name.
        folder: its folder in the gallery.
        planned: nodes in the plan.
        tiles: the nodes shown, by channel.
        missing: units that are not yet done.
        torn: files that cannot be read, relative to the run.
    """

    name: str
    folder: str
    planned: int
    tiles: tuple[Tile, ...]
    missing: tuple[Unit, ...]
    torn: tuple[str, ...]

    @property
    def totals(self) -> LayerTotals:
        """The layer's line in the summary table."""
        return totals([tile.entry for tile in self.tiles])

    @property
    def has_large_tiles(self) -> bool:
        """Whether its nodes are so few that their tiles are shown larger."""
        return self.planned <= _MOST_LARGE

    @property
    def strip(self) -> list[Tile]:
        """The nodes on the index: evenly spaced over the channels, whatever they look like."""
        return [self.tiles[index] for index in spread(len(self.tiles), _STRIP)]


def read_unit(run: Run, unit: Unit, planned: int) -> list[Exhibit]:
    """Return the exhibits of a committed unit, by channel; ``planned`` nodes are in its layer.

    Raises:
        StoreError: if its file is missing or torn, or holds anything but samples with pictures.
    """
    table = run.samples(unit)
    side = 90 if planned <= _MOST_LARGE else 60
    try:
        nodes = read_nodes(table.cast(SAMPLES))
        exhibits = [
            Exhibit(node, tile(images, side=side), sheet(images), sheet(means) if means else None)
            for node, images, means in nodes
        ]
    # What Pillow raises for broken PNG files, and Arrow for other columns.
    except (pa.ArrowException, OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError) as error:
        raise _torn(run, unit, str(error)) from None
    return sorted(exhibits, key=lambda exhibit: exhibit.entry.channel)


def _torn(run: Run, unit: Unit, why: str) -> StoreError:
    return StoreError(f"{unit.path} holds no samples that can be shown ({why})", where=run.location.title,
                      right="remove that file and run the same command again")  # fmt: skip
