"""What was asked of a folder: written first, never changed, compared when the same command comes again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raygen.documents import LARGEST, parse_json
from raygen.errors import StoreError
from raygen.storage import Location, title_of
from raygen.text import without_secrets

SCHEMA_VERSION = 3
"""Raised whenever a column of a table changes its name, type or meaning. A new column raises nothing: it may be null,
and is null in what was written before it."""

VERSIONS = (2, SCHEMA_VERSION)
"""Versions that are read. Version 2 had other names for five columns of the samples."""

LOCK = "lock.json"
"""Names the process that works in a folder; the first file in it, and the last to be removed."""

_SEALS = "seals"
"""Of the document: digests by which a changed bit is found. Older documents have none."""

_FILES = "files"
"""Of the seals: the key of the folder's owner. Where it is missing, the folder may hold files that bear no mark."""


@dataclass(frozen=True)
class Owner:
    """What the files of a folder belong to. They bear its mark, so that none can be taken for that of another folder.

    Attributes:
        key: a digest (hex) of what was asked.
        marks_all: whether every file of the folder bears a mark: those that an older raygen wrote bear none.
    """

    key: str
    marks_all: bool

    def mark(self, *names: Any) -> str:
        """Return the mark (hex) of the file that ``names``, plain values, tell from the folder's other files."""
        return hashlib.sha256(json.dumps((self.key, *names)).encode()).hexdigest()


def seeks_modes(document: Mapping[str, Any]) -> bool:
    """Return whether a run's ``run.json``, which may be a stranger's, asks for modes instead of samples."""
    request = document.get("request")
    settings = request.get("settings") if isinstance(request, Mapping) else None
    return isinstance(settings, Mapping) and bool(settings.get("mode_steps"))


def claim(
    location: Location,
    name: str,
    request: Mapping[str, Any],
    *,
    about: Mapping[str, str],
    allowed: Collection[str] = (),
    seals: Callable[[], Mapping[str, str]] = dict,
) -> int:
    """Write the request to ``name`` in an empty folder, or check that it is there; return its version of the schema.

    Args:
        location: the folder.
        name: of the file, such as ``run.json``.
        request: everything that decides the outcome: plain values. A setting that a later raygen adds has to be off
            where it is false, 0 or null: then a run from before it goes on.
        about: what is useful to know but decides nothing (versions); not compared. No address keeps its password.
        allowed: names that may be in the folder before the request.
        seals: asked where the request is written; returns the seals of the files that follow it.

    Raises:
        StoreError: if another request, or other files, are there, or the folder cannot be written.
    """
    asked = json.loads(json.dumps(request))
    if location.exists(name):
        found = read_request(location, name)
        _refuse_difference(location, found["request"], asked)
        return int(found["schema"])
    refuse_foreign_files(location, name, allowed)
    document = {
        "schema": SCHEMA_VERSION,
        "request": asked,
        "about": {fact: without_secrets(value) for fact, value in about.items()},
    }
    # Its own seal, the last, is of all that stands before it.
    document[_SEALS] = {**seals(), _FILES: _key(document)}
    document[_SEALS]["self"] = _digest(document)
    location.write(name, json.dumps(document, indent=2).encode())
    return SCHEMA_VERSION


def refuse_foreign_files(location: Location, name: str, allowed: Collection[str] = ()) -> None:
    """Do nothing if the file ``name`` is there, or may be written because the folder holds nothing else.

    Args:
        location: the folder.
        name: of the request's file.
        allowed: names that may be in the folder before it.

    Raises:
        StoreError: if other files are there.
    """
    if location.exists(name):
        return
    # A process killed while it wrote the request leaves a part of it; the same command may begin again.
    own = {*allowed, LOCK}
    names = (entry.name for entry in location.entries())
    foreign = [entry for entry in names if entry not in own and not _is_partial(entry, name)]
    if foreign:
        raise StoreError(f"the folder holds {foreign[0]}, but no {name}", where=location.title,
                         right="give an empty or a new folder")  # fmt: skip


def read_request(location: Location, name: str) -> dict[str, Any]:
    """Return the document: ``schema``, ``request`` and ``about``.

    Raises:
        StoreError: if it is missing, damaged, or of a version of the schema that this raygen does not read.
    """
    document = _read(location, name)
    document.pop(_SEALS, None)
    return document


def read_seals(location: Location, name: str) -> Mapping[str, str]:
    """Return the seals that the document keeps of other files; of an older document there are none.

    Raises:
        StoreError: as ``read_request`` does.
    """
    seals: Mapping[str, str] = _read(location, name).get(_SEALS, {})
    return seals


def read_owner(location: Location, name: str) -> Owner:
    """Return what the folder's files belong to, as the document says what was asked.

    Raises:
        StoreError: as ``read_request`` does.
    """
    document = _read(location, name)
    return Owner(_key(document), _FILES in document.get(_SEALS, {}))


def _key(document: Mapping[str, Any]) -> str:
    return _digest({part: document[part] for part in ("schema", "request")})


def _read(location: Location, name: str) -> dict[str, Any]:
    if not location.exists(name):
        raise StoreError(f"there is no {name}", where=location.title, right="give a folder that raygen wrote")
    try:
        document = parse_json(location.read(name, most=LARGEST))
    except ValueError:
        document = None
    damaged = StoreError(f"{name} is damaged", where=location.title, right="restore it, or begin anew elsewhere")
    if not isinstance(document, dict) or not isinstance(document.get("request"), dict):
        raise damaged
    if (found := document.get("schema")) not in VERSIONS or isinstance(found, float):
        raise StoreError(f"{name} is of schema version {found}, and this raygen reads {VERSIONS[0]} to {VERSIONS[-1]}",
                         where=location.title, right="use the raygen that wrote it")  # fmt: skip
    if not _is_whole(document):
        raise damaged
    return document


def _is_whole(document: dict[str, Any]) -> bool:
    """Whether a document, if it is sealed, holds what was sealed."""
    if _SEALS not in document:
        return True
    seals = document[_SEALS]
    if not isinstance(seals, dict) or not all(isinstance(seal, str) for seal in seals.values()):
        return False
    others = {name: seal for name, seal in seals.items() if name != "self"}
    return bool(seals.get("self") == _digest({**document, _SEALS: others}))


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _is_partial(entry: str, name: str) -> bool:
    return entry.startswith((f"{name}.", f"{LOCK}.")) and entry.endswith(".tmp")


def _refuse_difference(location: Location, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    difference = next(_differences(found, asked), None)
    if difference is not None:
        name, old, new = difference
        raise StoreError(f"it holds another run: there {name} is {_shown(old)}, now {_shown(new)}",
                         where=location.title, right="ask for the same again, or give another folder")  # fmt: skip


def _shown(value: Any) -> str:
    """Return a value for messages; a URI may hold secrets."""
    if isinstance(value, str) and "://" in value:
        value = title_of(value) + ("?..." if "?" in value else "")
    return json.dumps(value)


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            if key not in old and not new[key]:
                continue  # a setting that an older raygen did not have: off, nothing is different
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield name, old, new
