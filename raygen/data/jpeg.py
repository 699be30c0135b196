"""JPEGs of which a part is missing: libjpeg fills it with grey, or leaves it blurred, and Pillow does not say so.

Markers are those of ITU-T T.81.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from PIL import Image

_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
"""Frames that are coded by Huffman; others are not looked into."""

_SCAN, _END = 0xDA, 0xD9
_BARE = (0x01, *range(0xD0, 0xD9))
"""Markers that nothing belongs to."""

_NEXT = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
"""The end of a scan: among its numbers stand only zeros, and marks to begin afresh, behind 0xFF."""

_GREY = 128
_COEFFICIENTS = 64
_NUMBERS = bytes(number * 37 % 251 for number in range(1, 512))
_MORE = b"".join(_NUMBERS + bytes([0xFF, 0xD0 + number]) for number in (*range(8), *range(8)))
"""Numbers, and each of the marks to begin afresh: a decoder to which some are missing takes of them."""


def what_is_missing(data: bytes, picture: Image.Image) -> str | None:
    """Say what is missing of a JPEG; None where it is whole, as far as can be told.

    Of the last scan of a progressive one a part may be missing: it holds the last bits of what is there. So may a part
    between two of the marks at which a decoder begins afresh, which few writers set.

    Args:
        data: the file.
        picture: what Pillow decoded of it.
    """
    last_pixel = picture.getpixel((picture.width - 1, picture.height - 1))
    grey = last_pixel in (_GREY, (_GREY, _GREY, _GREY))
    if not (grey or "progressive" in picture.info):
        return None  # nearly always, and at once
    left: dict[int, set[int]] = {}  # coefficients that no scan has told in full, of each component
    progressive, end = False, len(data)
    for marker, start, stop in _segments(data):
        if marker in (*_SEQUENTIAL, _PROGRESSIVE):
            progressive = marker == _PROGRESSIVE
            left = {data[at]: set(range(_COEFFICIENTS)) for at in range(start + 6, stop - 2, 3)}
        elif marker == _SCAN:
            first, last, bits = data[stop - 3], data[stop - 2], data[stop - 1] & 15
            told = range(first, last + 1) if progressive else range(_COEFFICIENTS)
            for at in range(start + 1, stop - 3, 2):
                if not (progressive and bits):  # of which lower bits follow
                    left.get(data[at], set()).difference_update(told)
            end = _end_of_scan(data, stop)
    if any(left.values()):
        return "its last parts are missing"
    return "its end is missing" if grey and _takes_more(data, end) else None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Give each segment's marker, and where what belongs to it begins and ends."""
    at = 2
    while found := _NEXT.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _END:
            return
        if marker not in _BARE:
            stop = at + int.from_bytes(data[at : at + 2], "big")
            yield marker, at + 2, stop
            at = stop


def _end_of_scan(data: bytes, start: int) -> int:
    found = _NEXT.search(data, start)
    return found.start() if found else len(data)


def _takes_more(data: bytes, end: int) -> bool:
    """Whether a picture becomes another one where more numbers stand behind its own."""
    pictures = []
    for file in (data, data[:end] + _MORE + data[end:]):
        with Image.open(io.BytesIO(file)) as opened:
            pictures.append(opened.tobytes())
    return pictures[0] != pictures[1]
