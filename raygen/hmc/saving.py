"""States as named tensors and back, so that chains can be put down anywhere and taken up elsewhere, bit for bit.

There is no random state to save: :class:`raygen.hmc.Streams` derive every number from what it is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Any, TypeVar, get_type_hints

import torch
from torch import Tensor

from raygen.errors import StoreError

State = TypeVar("State")
Tensors = Mapping[str, Tensor]
"""Tensors by name; those of a part have its name and a dot before their own."""


def to_tensors(state: Any) -> dict[str, Tensor]:
    """Return the tensors and numbers of a dataclass, and of those within it, by their dotted names.

    Numbers become float64 or int64 tensors without dimensions. What is neither, or of a field with the metadata
    {"constant": True}, is left out: it is what :func:`from_tensors` takes from its template.
    """
    found: dict[str, Tensor] = {}
    for field in _saved(state):
        value = getattr(state, field.name)
        if isinstance(value, Tensor):
            found[field.name] = value.detach().cpu().contiguous().clone()  # two may share memory
        elif isinstance(value, int | float):
            found[field.name] = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
        elif is_dataclass(value):
            found |= {f"{field.name}.{name}": tensor for name, tensor in to_tensors(value).items()}
    return found


def under(name: str, tensors: Tensors) -> dict[str, Tensor]:
    """Return tensors under the names that they have as the part ``name`` of something."""
    return {f"{name}.{own}": tensor for own, tensor in tensors.items()}


def within(tensors: Tensors, name: str) -> dict[str, Tensor]:
    """Return the tensors of the part ``name``, under their own names; what :func:`under` undoes."""
    return {own[len(name) + 1 :]: tensor for own, tensor in tensors.items() if own.startswith(f"{name}.")}


def rebuild(kind: type[State], tensors: Tensors, device: torch.device) -> State:
    """Return a dataclass of tensors, numbers and dataclasses of these, from what :func:`to_tensors` returned.

    A field that is not there takes its default. Shapes are those that were saved.

    Raises:
        StoreError: if a field without a default is missing.
    """
    hints, values = get_type_hints(kind), dict[str, Any]()
    for field in fields(kind):  # type: ignore[arg-type]
        hint, part = hints[field.name], within(tensors, field.name)
        if part:
            values[field.name] = rebuild(hint, part, device)
        elif field.name in tensors:
            saved = tensors[field.name]
            values[field.name] = hint(saved.item()) if hint in {int, float} else _own(saved, device)
        elif field.default is MISSING:
            raise StoreError(f"there is no {field.name}", where="chain state", right="begin the chains anew")
    return kind(**values)


def _own(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy where the device's allocator puts it: a matrix product may depend on how memory is aligned."""
    return tensor.to(device).clone()


def from_tensors(like: State, tensors: Tensors) -> State:
    """Return a state of the structure of ``like`` that holds ``tensors``, on the devices of ``like``.

    Args:
        like: of the same node, chains and settings, such as the state before the first iteration.
        tensors: as :func:`to_tensors` returned them.

    Raises:
        StoreError: if a tensor is missing, left over, or of another shape or type: it is another run's state.
    """
    known = to_tensors(like)
    different = known.keys() ^ tensors.keys() | {
        name for name in known.keys() & tensors.keys()
        if (known[name].shape, known[name].dtype) != (tensors[name].shape, tensors[name].dtype)
    }  # fmt: skip
    if different:
        raise StoreError(f"saved chains do not fit in {', '.join(sorted(different))}", where="chain state",
                         right="take up a state with the settings that it was saved with")  # fmt: skip
    rebuilt: State = _rebuilt(like, tensors, "")
    return rebuilt


def _saved(state: Any) -> list[Field[Any]]:
    """Return the fields that change along the way, those that are not marked as constant."""
    return [field for field in fields(state) if not field.metadata.get("constant")]


def _rebuilt(like: Any, tensors: Tensors, prefix: str) -> Any:
    changed: dict[str, Any] = {}
    for field in _saved(like):
        value, name = getattr(like, field.name), f"{prefix}{field.name}"
        if isinstance(value, Tensor):
            changed[field.name] = _own(tensors[name], value.device)
        elif isinstance(value, int | float):
            changed[field.name] = type(value)(tensors[name].item())
        elif is_dataclass(value):
            changed[field.name] = _rebuilt(value, tensors, f"{name}.")
    return replace(like, **changed)
