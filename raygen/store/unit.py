"""A unit of work: the nodes that share a batch, and the files that are its own."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

from raygen.errors import StoreError
from raygen.notation import Node, read_node
from raygen.store.request import Owner

_LONGEST_NAME = 1000
"""Characters of a unit's or a layer's name."""

_LONGEST_FILE = 200
"""Bytes of one part of a file's name: file systems take 255, and an ending and a temporary one come behind it."""

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@,+-]{0,150}")
"""Nearly all names: nothing in them needs a look."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PARTS = re.compile(r"[/\\]")


@dataclass(frozen=True)
class Unit:
    """Nodes of one layer whose chains share a batch.

    Attributes:
        name: unique in the run; also the name of its file.
        layer: the layer's dotted name.
        nodes: their texts, as the command line takes them, in the order of the batch.
        chains: chains of each node.
    """

    name: str
    layer: str
    nodes: tuple[str, ...]
    chains: int

    @cached_property
    def parsed(self) -> tuple[Node, ...]:
        """The nodes as values: their texts are read once, when they are first asked for.

        Raises:
            NodeError: if a text is none of a node.
        """
        return tuple(map(read_node, self.nodes))

    def mark(self, owner: Owner) -> str:
        """Return the mark (hex) that the file of its samples bears in a run."""
        return owner.mark(self.name, self.layer, self.nodes, self.chains)

    @property
    def path(self) -> str:
        """The file of its samples, relative to the run's folder."""
        return f"samples/{file_name(self.layer)}/{file_name(self.name)}.parquet"

    @property
    def state_path(self) -> str:
        """The file of its state while it is unfinished, relative to the run's folder."""
        return f"state/{file_name(self.name)}.safetensors"


def file_name(name: str) -> str:
    """Return a path for a unit's or a layer's name, which never leads out of the folder that it is put in.

    It is the name itself, in which slashes make folders, wherever that can be: as of all networks that raygen knows.
    Otherwise each part is made fit, and eight digits of the name's hash tell it from others.
    """
    if _PLAIN.fullmatch(name):
        return name
    parts = name.split("/")
    if all(map(_is_fit, parts)):
        return name
    plain = "_".join(part for part in map(_fit, parts) if part) or "layer"
    short = plain.encode()[: _LONGEST_FILE - 9].decode("utf-8", "ignore")
    return f"{short}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def check_names(unit: Unit, where: str) -> None:
    """Do nothing if a unit has names that raygen gives.

    Args:
        unit: made from what was planned, or from a file.
        where: the run's folder, for messages.

    Raises:
        StoreError: if the name of the unit or of its layer could mislead: it climbs out of a folder, holds what cannot
            be printed, is longer than 1,000 characters, or the unit has none.
    """
    fault = _fault(unit.name, "unit") or _fault(unit.layer, "layer") or ("" if unit.name else "a unit has no name")
    if fault:
        raise StoreError(fault, where=where, right="give a network whose modules have plain names, and a run of it")


def _fault(name: str, what: str) -> str:
    shown = ascii(name if len(name) <= 60 else name[:60] + "...")
    if len(name) > _LONGEST_NAME:
        return f"the name of {what} {shown} is longer than {_LONGEST_NAME} characters"
    if _CONTROL.search(name) or any("\ud800" <= character <= "\udfff" for character in name):
        return f"the name of {what} {shown} holds what cannot be printed"
    return f"the name of {what} {shown} leads to another folder" if ".." in _PARTS.split(name) else ""


def _is_fit(part: str) -> bool:
    return part not in ("", ".", "..") and _fit(part) == part and len(part.encode()) <= _LONGEST_FILE


def _fit(part: str) -> str:
    return _CONTROL.sub("_", part.encode("utf-8", "replace").decode())
