"""Small documents that are read, YAML and JSON: bounded before they are believed.

A document of a few hundred bytes may stand for gigabytes (aliases of aliases), or for more nesting than Python follows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

LARGEST = 2**24
"""Bytes of a document; the largest honest ones, lists of class names or nodes, take a hundredth."""

_MOST = 2**20
"""Values in a document, those that stand in several places counted in each."""

_DEEPEST = 64


def read_text(path: str | Path) -> str:
    """Return the text of a document, which may be a pipe as shells make them.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is too large, or is not in UTF-8.
    """
    with Path(path).open("rb") as stream:
        data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST:,} bytes")
    return data.decode("utf-8")


def parse_yaml(text: str) -> Any:
    """Return what a YAML document holds; JSON is YAML.

    Raises:
        ValueError: if it is none, or is too large or too deeply nested.
    """
    try:
        return _bounded(yaml.safe_load(text))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def parse_json(data: str | bytes) -> Any:
    """Return what a JSON document holds.

    Raises:
        ValueError: if it is none, or is too large or too deeply nested.
    """
    try:
        return _bounded(json.loads(data))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _bounded(value: Any) -> Any:
    """Return ``value``; raise ValueError where it holds too much, or itself."""
    count, waiting = 0, [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        count += 1
        if count > _MOST:
            raise ValueError(f"it stands for more than {_MOST:,} values")
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        if isinstance(part, dict):
            waiting += [(inner, depth + 1) for pair in part.items() for inner in pair]
        elif isinstance(part, list | tuple | set):
            waiting += [(inner, depth + 1) for inner in part]
    return value
