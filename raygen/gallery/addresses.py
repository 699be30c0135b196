"""Lasting addresses: the folder of a layer and the file stem of a node, safe on every file system."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_PLAIN_NODE = re.compile(r"\d+(?:@(\d+),(\d+))?")
_LONGEST = 80
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
"""Names that Windows keeps for devices, whatever follows their first dot."""
_OWN_FILES = {"index.html", "style.css", "gallery.json"}


def layer_folders(layers: Iterable[str]) -> dict[str, str]:
    """Return a folder name for each layer: the layer's own name wherever that is safe.

    Only ASCII letters, digits, ``.``, ``_`` and ``-`` remain. A name that had to be changed, or that differs from
    another only in case, ends in eight digits of its hash. The result depends only on the set of names.
    """
    names = sorted(set(layers))
    plain = {name: _plain(name) for name in names}
    times = Counter(folder.casefold() for folder in plain.values())
    return {
        name: folder if folder == name and times[folder.casefold()] == 1 else f"{folder}-{_digest(name)}"
        for name, folder in plain.items()
    }


def node_stem(node: str, channel: int) -> str:
    """Return the stem of a node's files in its layer's folder: ``7``, or ``7_at_3_4`` for a position.

    What else is written behind the layer, as of a sum or a mean, is kept where it is safe, and ends in eight digits of
    its hash: ``3_at_mean-1f0c2a7b``.
    """
    written = node.rpartition(":")[2]
    known = _PLAIN_NODE.fullmatch(written)
    if known:
        return f"{channel}_at_{known[1]}_{known[2]}" if known[1] else str(channel)
    rest = _UNSAFE.sub("_", written.removeprefix(str(channel)).replace("@", "_at_")).strip("_")[:_LONGEST]
    return f"{channel}_{rest}-{_digest(written)}"


def _plain(name: str) -> str:
    folder = _UNSAFE.sub("_", name).strip(".-")[:_LONGEST].rstrip(".") or "layer"
    lowered = folder.casefold()
    return f"_{folder}" if lowered.split(".")[0] in _RESERVED or lowered in _OWN_FILES else folder


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
