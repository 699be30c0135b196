"""From the bytes of a picture's file to pixels of one shape: any format and mode that Pillow reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from raygen.data.jpeg import what_is_missing

Pixels = NDArray[np.uint8]
"""(C, H, W), 0 is black."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge of a part of a picture, in its pixels."""

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode by number of channels."""

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture upright, by its EXIF orientation (EXIF 2.3, tag 274)."""

_SIDEWAYS = 5
"""The first orientation in which width and height are exchanged; all later ones are, too."""

_BEYOND = 64
"""How far a filter may have led numbers beyond those of pixels, 0 to 255."""

_GAP = 2
"""A JPEG is decoded at a half, a quarter or an eighth of its size where that still is so many times the size wanted."""


@dataclass(frozen=True)
class Corrupt:
    """A picture that cannot be read, and why."""

    reason: str


Picture = Pixels | Corrupt
Data = bytes | memoryview | Corrupt
"""A picture's file, or why it cannot be had."""


def decode(data: Data, shape: tuple[int, int, int], choose: Callable[[int, int], Box]) -> Picture:
    """Decode a picture and bring a part of it to a shape.

    Grey, palette, CMYK and other modes become what ``shape`` has channels for; 16 bits become 8; transparent pixels lie
    over white; the EXIF orientation is applied.

    Args:
        data: its file.
        shape: (C, H, W) of the result, C being 1 or 3.
        choose: given the upright picture's width and height, returns the part to take.

    Returns:
        (C, H, W) uint8, or why the picture cannot be read.
    """
    channels, height, width = shape
    if isinstance(data, Corrupt):
        return data
    if not data:
        return Corrupt("it is empty")
    # Pillow's decoders have no exception of their own: on damaged files they raise whatever they stumble over.
    try:
        with Image.open(io.BytesIO(data)) as opened:
            _refuse_bomb(opened)
            if opened.format != "JPEG":
                # Only now is it known whether others have to be turned (PNG), or whether they turn themselves (TIFF).
                opened.load()
            turn = _orientation(opened)
            size = opened.size[::-1] if turn >= _SIDEWAYS else opened.size
            box = choose(*size)
            _draft(opened, box, (width, height))
            picture = _converted(opened, MODES[channels])
            if opened.format == "JPEG" and (missing := what_is_missing(bytes(data), opened)):
                return Corrupt(missing)
        if turn in _TURNS:
            picture = picture.transpose(_TURNS[turn])
        fitted = picture.resize((width, height), Image.Resampling.LANCZOS, box=_scaled(box, size, picture.size))
    except UnidentifiedImageError:
        return Corrupt("it is in no format that Pillow knows")
    except Exception as error:
        return Corrupt(" ".join(f"{type(error).__name__}: {error}".split()))
    pixels: Pixels = np.asarray(fitted, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
    return pixels


def middle(width: int, height: int) -> Callable[[int, int], Box]:
    """Return a choice for ``decode``: the largest part of the given proportions, in the picture's middle."""

    def choose(have_width: int, have_height: int) -> Box:
        scale = max(width / have_width, height / have_height)
        left, top = (have_width - width / scale) / 2, (have_height - height / scale) / 2
        return left, top, have_width - left, have_height - top

    return choose


def _refuse_bomb(picture: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:
        raise ValueError(f"{picture.width}x{picture.height} are more than {limit:,} pixels")


def _orientation(picture: Image.Image) -> int:
    # Metadata may be broken where the pixels are not.
    try:
        return int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        return 1


def _draft(picture: Image.Image, box: Box, wanted: tuple[int, int]) -> None:
    """Let a JPEG that is much larger than wanted be decoded smaller; do nothing to other pictures."""
    left, top, right, bottom = box
    width, height = picture.size
    smaller = min((right - left) / wanted[0], (bottom - top) / wanted[1]) / _GAP
    if picture.format == "JPEG" and smaller >= 2:
        picture.draft(None, (max(int(width / smaller), 1), max(int(height / smaller), 1)))


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in {"PNG", "PPM"}):
        return _from_numbers(np.asarray(picture.convert("I")) / 257, mode)
    if picture.mode in {"I", "F"}:
        return _from_numbers(_pixels_of(np.asarray(picture)), mode)
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    if picture.mode not in {"L", "LA", "1"}:
        picture = picture.convert("RGB")
    return picture.convert(mode)


def _pixels_of(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers of 0 to 1, or of 0 to 255, on the scale of pixels; others have no range that is known."""
    known = numbers[~np.isnan(numbers)]
    if not known.size:
        raise ValueError("it holds no numbers")
    low, high = float(known.min()), float(known.max())
    whole = numbers.dtype.kind != "f"
    if not whole and low >= 0 and high <= 1:
        return numbers * 255
    if low >= -_BEYOND and high <= 255 + _BEYOND and (high > 1 or (whole and low >= 0)):
        return numbers
    raise ValueError(f"its numbers are {low:g} to {high:g}, neither 0 to 1 nor 0 to 255")


def _from_numbers(numbers: NDArray[np.floating], mode: str) -> Image.Image:
    return Image.fromarray(np.nan_to_num(numbers).round().clip(0, 255).astype(np.uint8)).convert(mode)


def _scaled(box: Box, size: tuple[int, int], now: tuple[int, int]) -> Box:
    """Return the box in a picture of which ``now`` is the size, where it was ``size`` when the box was chosen."""
    left, top, right, bottom = box
    across, down = now[0] / size[0], now[1] / size[1]
    # Round-off must not put an edge outside.
    return max(left * across, 0), max(top * down, 0), min(right * across, now[0]), min(bottom * down, now[1])
