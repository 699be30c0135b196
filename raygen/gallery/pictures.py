"""Pictures made of samples: PNGs of a node's tile and sheet and of a layer's contact sheet; SVG lines of its scores."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw, ImageFont

from raygen.errors import StoreError
from raygen.gallery.evidence import Chain, Images
from raygen.store import check_pixels

TILE_CHAINS = 4
SHEET_CHAINS, SHEET_DRAWS = 32, 24
_SMALL = 64
"""Up to this side, in pixels, a picture is enlarged by whole factors, so that its pixels stay square and crisp."""
_GAP = 4
_MARGIN, _SPACE = 24, 14
_MOST_PIXELS = 30_000_000
"""Of a contact sheet's tiles: beyond, they are made smaller. 30 megapixels print at 300 dpi on 50 by 50 cm."""
_TRACE_WIDTH, _TRACE_HEIGHT, _TRACE_EDGE = 1000.0, 100.0, 4.0
_INK, _FAINT = "#111111", "#666666"


@dataclass(frozen=True)
class Picture:
    """A PNG file, the size to show it at in CSS pixels, and whether its pixels are to stay crisp."""

    png: bytes
    width: int
    height: int
    crisp: bool


@dataclass(frozen=True)
class Sheet:
    """Chains (rows) by draws (columns); or one row of chains where each has one draw.

    ``rows`` and ``columns`` index the chains and draws shown; ``cell`` is the shown size of one image, width by height.
    """

    picture: Picture
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    cell: tuple[int, int]
    gap: int
    transposed: bool

    def without_bytes(self) -> Sheet:
        """Return what is to be known of the sheet once its picture is written."""
        return replace(self, picture=replace(self.picture, png=b""))


def tile(images: Images, *, side: int = 60) -> Picture:
    """Return the last draws of up to four chains in a square, each about ``side`` wide: one node at a glance."""
    shown = [_decode(images[chain][-1]) for chain in spread(len(images), TILE_CHAINS)]
    cells, scale, crisp = _fit(shown, target=side, largest=2 * side)
    columns = math.ceil(math.sqrt(len(cells)))
    picture = _grid([cells[at : at + columns] for at in range(0, len(cells), columns)], _GAP * scale)
    return Picture(_encode(picture), picture.width // scale, picture.height // scale, crisp)


def sheet(images: Images) -> Sheet:
    """Return chains by draws; of very many, some evenly spaced ones with the first and the last."""
    rows = spread(len(images), SHEET_CHAINS)
    columns = spread(max(len(chain) for chain in images), SHEET_DRAWS)
    shown = [[_decode(images[row][at]) for at in columns if at < len(images[row])] for row in rows]
    cells, scale, crisp = _fit([image for line in shown for image in line], target=96, largest=288)
    cell = (max(image.width for image in cells) // scale, max(image.height for image in cells) // scale)
    remaining = iter(cells)
    grid = [[next(remaining) for _ in line] for line in shown]
    transposed = len(columns) == 1
    picture = _grid([[line[0] for line in grid]] if transposed else grid, _GAP * scale)
    shown_size = Picture(_encode(picture), picture.width // scale, picture.height // scale, crisp)
    return Sheet(shown_size, rows, columns, cell, _GAP, transposed)


def contact_sheet(title: str, tiles: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a layer's labelled tiles on white, ready for a paper.

    Args:
        title: one line above the tiles.
        tiles: label and tile (PNG) of each node; at least one.
    """
    pictures = [Image.open(io.BytesIO(png)) for _, png in tiles]
    widest = max(picture.width for picture in pictures)
    side = round(widest * min(1.0, math.sqrt(_MOST_PIXELS / len(tiles)) / widest))
    font, small = ImageFont.load_default(18), ImageFont.load_default(max(8, min(18, side // 10)))
    columns = min(len(tiles), max(5, math.ceil(math.sqrt(len(tiles) * 1.7))))
    high = max(round(picture.height * side / picture.width) for picture in pictures) + 22
    wide = side + _SPACE
    rows = math.ceil(len(tiles) / columns)
    columns = math.ceil(len(tiles) / rows)
    width = max(columns * wide - _SPACE, math.ceil(font.getlength(title))) + 2 * _MARGIN
    canvas = Image.new("RGB", (width, rows * (high + _SPACE) - _SPACE + 2 * _MARGIN + 30), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN - 6), title, fill=_INK, font=font)
    for at, ((label, _), picture) in enumerate(zip(tiles, pictures, strict=True)):
        corner = (_MARGIN + at % columns * wide, _MARGIN + 30 + at // columns * (high + _SPACE))
        shown = picture.convert("RGBA")
        shown.thumbnail((side, high), Image.Resampling.LANCZOS)
        canvas.paste(shown, corner, shown)
        draw.text((corner[0], corner[1] + high - 18), _cut(label, small, side), fill=_FAINT, font=small)
    return _encode(canvas)


@dataclass(frozen=True)
class Trace:
    """Lines in a frame of 1000 by 100: ``lines`` holds a chain's number and the points of its line."""

    lines: tuple[tuple[int, str], ...]
    scores: tuple[float, float]
    draws: tuple[int, int]


def trace(chains: Sequence[Chain]) -> Trace | None:
    """Return the drawing; None where no chain has two draws, or no score is finite."""
    scores = [score for chain in chains for score in chain.scores if math.isfinite(score)]
    draws = [draw for chain in chains for draw in chain.draws]
    if not scores or max(len(chain.draws) for chain in chains) < 2:
        return None
    low, high = min(scores), max(scores)
    first, last = min(draws), max(draws)

    def across(draw: int) -> float:
        return _TRACE_WIDTH * (draw - first) / max(last - first, 1)

    def down(score: float) -> float:
        return _TRACE_EDGE + (_TRACE_HEIGHT - 2 * _TRACE_EDGE) * ((high - score) / (high - low) if high > low else 0.5)

    lines = tuple(
        (chain.number, " ".join(f"{across(draw):.1f},{down(score):.1f}"
                                for draw, score in zip(chain.draws, chain.scores, strict=True) if math.isfinite(score)))
        for chain in chains
    )  # fmt: skip
    return Trace(lines, (low, high), (first, last))


def spread(count: int, limit: int) -> tuple[int, ...]:
    """Return up to ``limit`` indices below ``count``, evenly spaced, the first and the last among them."""
    if count <= limit:
        return tuple(range(count))
    return tuple(round(at * (count - 1) / (limit - 1)) for at in range(limit))


def _decode(png: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            check_pixels(picture.size)
            # Alpha holds the gaps between images: transparent, they suit a light page and a dark one.
            return picture.convert("LA" if picture.mode in {"1", "L", "LA"} else "RGBA")
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        what = f"holds a picture that cannot be shown ({type(error).__name__}: {error})"
        raise StoreError(what, where="samples", right="let raygen verify --mend remove it, and sample again") from None


def _fit(images: list[Image.Image], *, target: int, largest: int) -> tuple[list[Image.Image], int, bool]:
    """Resize to about ``target`` shown pixels; return also how many stored pixels make a shown one, and crispness."""
    side = max(max(image.size) for image in images)
    if side <= _SMALL:
        times = max(1, round(target / side))
        return [image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
                for image in images], 1, True  # fmt: skip
    if side > largest:
        for image in images:
            image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
        side = largest
    return images, 2 if side >= 1.5 * target else 1, False


def _grid(rows: list[list[Image.Image]], gap: int) -> Image.Image:
    images = [image for row in rows for image in row]
    wide, high = max(image.width for image in images) + gap, max(image.height for image in images) + gap
    size = (max(len(row) for row in rows) * wide - gap, len(rows) * high - gap)
    canvas = Image.new(images[0].mode, size, (0,) * len(images[0].getbands()))
    for line, row in enumerate(rows):
        for column, image in enumerate(row):
            canvas.paste(image, (column * wide, line * high))
    return canvas


def _encode(picture: Image.Image) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, "PNG", compress_level=4)
    return sink.getvalue()


def _cut(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(label + "…") > width:
        label = label[:-1]
    return label + "…"
