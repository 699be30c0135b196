"""Small documents that are read, YAML and JSON: bounded before memory is taken, and before they are believed.

A document of a few hundred bytes may stand for gigabytes (aliases of aliases), for more nesting than Python follows, or
for a number that takes hours; a pipe may never end, or never begin.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

LARGEST = 2**24
"""Bytes of a document; the largest honest ones, lists of class names or nodes, take a hundredth."""

_MOST = 2**20
"""Values in a document, those that stand in several places counted in each."""

_MOST_WRITTEN = 2**17
"""Values that a YAML document writes out: its reader takes some ten seconds for a million."""

_LARGEST_YAML = 2**22
"""Characters of a YAML document, comments and blank lines included."""

_DEEPEST = 64

_DIGITS = 10_000
"""Of a number as it is written in YAML."""

_PATIENCE = 10.0
"""Seconds in which a pipe or a device must have said all."""

_PART = 2**16
"""Bytes that are read at once."""

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_text(path: str | Path) -> str:
    """Return the text of a document, which may be a pipe as shells make them.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is too large, does not come, or is not in UTF-8.
    """
    # A pipe that nobody writes to would hold up the opening itself.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        data = _read(descriptor)
    finally:
        os.close(descriptor)
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST:,} bytes")
    return data.decode("utf-8")


def _read(descriptor: int) -> bytes:
    """Return what comes, and a part more than ``LARGEST`` at most."""
    data, until = bytearray(), time.monotonic() + _PATIENCE
    watch = select.poll()
    watch.register(descriptor, select.POLLIN)
    while len(data) <= LARGEST:
        left = until - time.monotonic()
        if left < 0 or not watch.poll(1000 * left):
            raise ValueError(f"it does not end within {_PATIENCE:g} s")
        if not (part := os.read(descriptor, _PART)):
            break
        data += part
    return bytes(data)


def parse_yaml(text: str) -> Any:
    """Return what a YAML document holds; JSON is YAML.

    Raises:
        ValueError: if it is none, or is too large or too deeply nested.
    """
    if len(text) > _LARGEST_YAML:
        raise ValueError(f"it is longer than {_LARGEST_YAML:,} characters")
    try:
        return _loaded(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (LookupError, ArithmeticError, AttributeError, TypeError) as error:  # a tag such as !!int before no number
        raise ValueError(f"a value is not what its tag says ({type(error).__name__})") from None


def _loaded(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        _check(node, _parts_of_node)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def parse_json(data: str | bytes) -> Any:
    """Return what a JSON document holds.

    Raises:
        ValueError: if it is none, or is too large or too deeply nested.
    """
    written = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if sum(map(written.count, (b"[", b"{", b","))) > _MOST:
        raise ValueError(f"it stands for more than {_MOST:,} values")
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check(value, _parts_of_value)
    return value


class _Loader(yaml.SafeLoader):
    """Counts the values as they are read, before anything is made of them."""

    _written = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._written += 1
        if self._written > _MOST_WRITTEN:
            raise ValueError(f"it holds more than {_MOST_WRITTEN:,} values")
        return super().compose_node(parent, index)


def _check(value: Any, parts: Callable[[Any], Iterable[Any]]) -> None:
    """Do nothing; raise ValueError where a value holds too much, or itself."""
    count, waiting = 0, [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        count += 1
        if count > _MOST:
            raise ValueError(f"it stands for more than {_MOST:,} values")
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        waiting += [(inner, depth + 1) for inner in parts(part)]


def _parts_of_value(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [inner for pair in value.items() for inner in pair]
    return value if isinstance(value, list) else ()


def _parts_of_node(node: Any) -> Iterable[Any]:
    if isinstance(node, yaml.MappingNode):
        return [inner for pair in node.value for inner in pair]
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    # YAML 1.1 has numbers to the base 60, of which Python needs hours for some megabytes.
    if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) > _DIGITS:
        raise ValueError(f"it holds a number of more than {_DIGITS:,} digits")
    return ()
