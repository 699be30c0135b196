"""What a file of weights may ask for: a description is no wish of the user, and the file may be a stranger's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from raygen.errors import NetworkError
from raygen.networks.settings import NetworkSettings, find_metadata
from raygen.networks.zoo.weights import read_tensors
from raygen.text import for_shell

LARGEST_INPUT = 3 * 2048**2
"""Numbers of an input that a file may ask for; larger ones the user gives."""

DOWNLOADS = frozenset({"weights", "pretrained"})
"""Arguments of torchvision's factories, and of those made like them, that download weights."""

_NAMED: set[str] = set()
"""Calls of factories that the user named in this process, whose code runs here already."""

_SPARE = 4096
"""Numbers that a network may make beside those of its weights, such as counters that old files lack."""


def check_asked(settings: NetworkSettings, given: NetworkSettings) -> int | None:
    """Check the network and the arguments that a file asks for; return how many numbers the network may hold.

    That is as many as the file may: no kind of number takes less than a byte. A network that is built in takes memory
    before its weights are looked at.

    Args:
        settings: with what the file says.
        given: what the user gave.

    Raises:
        NetworkError: if the file asks for a factory that the user did not name, or for arguments that are no plain
            numbers (of a factory that the user named: that hold texts).
        WeightsError: if there is no such file.
    """
    name, arguments = settings.network, settings.arguments
    if ":" in name:
        named = "network" in given.model_fields_set and given.network == name
        if not named and _call(settings) not in _NAMED:
            what = f"asks for the factory {name}, which would run code that you did not name"
            raise NetworkError(what, where=_file(settings), right=f"give --network {for_shell(name)} if you trust it")
        if _call(settings) not in _NAMED and "arguments" not in given.model_fields_set:
            _check_texts(settings)
        return None
    if "arguments" in given.model_fields_set:
        return None
    for key, value in arguments.items():
        # Lists would say how many layers there are, names what is called.
        if value is not None and not isinstance(value, bool | int | float):
            _refuse(settings, f"asks for {key} = {value!r}", "arguments")
    weights = Path(settings.weights or "")
    if not weights.is_file():
        read_tensors(weights)  # says so
    return weights.stat().st_size + _SPARE


def _check_texts(settings: NetworkSettings) -> None:
    """Refuse texts for a factory that the user named: many take the name of what they run, read or download.

    Raises:
        NetworkError: naming the first argument that holds one, or that asks for a download.
    """
    for key, value in settings.arguments.items():
        if _holds_text(value) or (key in DOWNLOADS and value):
            options = for_shell(json.dumps(settings.arguments, default=str))
            what = f"asks {settings.network} for {key} = {str(value)[:200]!r}, which you did not name"
            raise NetworkError(what, where=_file(settings), right=f"give --arguments {options} if you trust it")


def _holds_text(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_text, (*value.keys(), *value.values())))
    if isinstance(value, list | tuple | set):
        return any(map(_holds_text, value))
    return value is not None and not isinstance(value, bool | int | float)


def note_named(given: NetworkSettings) -> None:
    """Note the factory that the user named, with its arguments: a file may ask this process for the same call again."""
    if "network" in given.model_fields_set and ":" in given.network:
        _NAMED.add(_call(given))


def check_size(settings: NetworkSettings, given: NetworkSettings, shape: tuple[int, ...]) -> None:
    """Check a (C, H, W) that is over ``LARGEST_INPUT``.

    Raises:
        NetworkError: if the user did not give it.
    """
    if given.input_size is None and settings.weights not in (None, "random", "DEFAULT"):
        _refuse(settings, f"asks for an input of {'x'.join(map(str, shape))}", "input-size")


def _call(settings: NetworkSettings) -> str:
    return f"{settings.network} {json.dumps(settings.arguments, sort_keys=True, default=repr)}"


def _refuse(settings: NetworkSettings, what: str, option: str) -> NoReturn:
    raise NetworkError(what, where=_file(settings), right=f"give --{option} yourself if that is what you want")


def _file(settings: NetworkSettings) -> str:
    beside = find_metadata(settings.weights)
    return f"weights {settings.weights}" + (f" (with {beside.name})" if beside else "")
