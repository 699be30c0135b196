"""What was asked of a run, as lines to read; and the command that draws one of its nodes again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raygen.sampling import SamplingSettings
from raygen.store import seeks_modes
from raygen.text import for_shell, without_secrets

_HASH = re.compile(r"\b[0-9a-fA-F]{24,}\b")
_ITEMS, _LETTERS = 8, 100
_HEADLINE = (
    "network", "weights", "weights_hash", "data", "reference", "reference_file", "reference_hash", "bounded", "sigma",
    "exponent", "cutoff", "contrast", "tilt", "views", "mode_steps", "kernel", "steps", "warm_up", "chains", "draws",
    "thin", "seed", "raygen",
)  # fmt: skip
_OF_CHAINS = {"views", "kernel", "steps", "warm_up", "draws", "thin"}
"""What decides nothing of modes."""


@dataclass(frozen=True)
class Fact:
    """One setting of the run: ``value`` is short, ``full`` is whole."""

    name: str
    value: str
    full: str


@dataclass(frozen=True)
class Limits:
    """The R-hat and the ESS from which on a run counts a node as converged."""

    r_hat: float
    ess: float


def facts(document: Mapping[str, Any]) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    """Return what ``run.json`` says: first the settings that readers look for, then all others in their order.

    Nested names are joined by dots; what is null or empty is left out.
    """
    leaves = [*_leaves(_part(document, "request")), *_leaves(_part(document, "about"))]
    # The settings have one flat set of names, as on the command line.
    found = [Fact(name.removeprefix("settings."), _short(value), _full(value)) for name, value in leaves]
    headline = [name for name in _HEADLINE if not (seeks_modes(document) and name in _OF_CHAINS)]
    first = sorted((fact for fact in found if fact.name in headline), key=lambda fact: headline.index(fact.name))
    return tuple(first), tuple(fact for fact in found if fact.name not in headline)


def network_name(document: Mapping[str, Any]) -> str:
    """Return what the run calls its network."""
    name = _part(document, "request").get("network")
    return name if isinstance(name, str) and name else "the network"


def limits(document: Mapping[str, Any]) -> Limits | None:
    """Return what the run asks of a converged node; None where its request does not say."""
    settings = _part(_part(document, "request"), "settings")
    r_hat, ess = settings.get("r_hat"), settings.get("ess")
    return Limits(r_hat, ess) if isinstance(r_hat, int | float) and isinstance(ess, int | float) else None


def redraw_command(document: Mapping[str, Any], node: str, layer: str) -> tuple[str, ...]:
    """Return the words that draw one node of a run again, quoted for a POSIX shell, an option with its value in one.

    Every setting of the request is given as an option of its name, with the layer's profile over it; ``about`` has
    the files of the weights and of the reference: where they lie decides nothing, so the request does not hold it.
    The run may be a stranger's: names that are no settings of sampling are left out, and no address keeps a password.
    """
    request = _part(document, "request")
    options = {"network": request.get("network")}
    options |= {name: _part(document, "about").get(name) for name in ("weights", "reference_file")}
    options |= _input(request) | {
        "data": request.get("data"),
        **_settings(_part(request, "settings")),
        **_settings(_part(_part(request, "profile"), layer)),
    }
    folder = re.sub(r"[^A-Za-z0-9._-]+", "_", node).strip(".") or "node"
    words = ["raygen sample", f"--nodes {for_shell(node)}", f"--out redrawn/{folder}"]
    return (*words, *(option for name, value in options.items() for option in _option(name, value)))


def _input(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network's input as options."""
    shape = request.get("input_shape")
    known = {"mean": request.get("mean"), "std": request.get("std")}
    if not isinstance(shape, Sequence) or len(shape) != 3:
        return known
    size = shape[1] if shape[1] == shape[2] else f"{shape[1]}x{shape[2]}"
    return {"input_size": size, "channels": shape[0], **known}


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in SamplingSettings.model_fields}


def _option(name: str, value: Any) -> Iterator[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{flag}" if value else f"--no-{flag}"
    elif isinstance(value, str | int | float):
        yield f"--{flag} {for_shell(without_secrets(str(value)))}"
    elif isinstance(value, Sequence) and value and all(isinstance(one, int | float) for one in value):
        yield f"--{flag} {','.join(map(str, value))}"
    elif value not in (None, [], {}):
        yield f"--{flag} {for_shell(without_secrets(json.dumps(value)))}"


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = document.get(name)
    return part if isinstance(part, Mapping) else {}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    elif value not in (None, "", []):
        yield name, value


def _full(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_full(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > _ITEMS:
        return f"{_full(value[:_ITEMS])} and {len(value) - _ITEMS:,} more"
    text = _HASH.sub(lambda found: found[0][:12] + "…", _full(value))
    return text if len(text) <= _LETTERS else text[:_LETTERS] + "…"
