"""States as named tensors and back, so that chains can be put down anywhere and taken up elsewhere, bit for bit.

There is no random state to save: :class:`raygen.hmc.Streams` derive every number from what it is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from raygen.errors import StoreError

State = TypeVar("State")


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


def from_tensors(like: State, tensors: Mapping[str, Tensor]) -> State:
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


def _rebuilt(like: Any, tensors: Mapping[str, Tensor], prefix: str) -> Any:
    changed: dict[str, Any] = {}
    for field in _saved(like):
        value, name = getattr(like, field.name), f"{prefix}{field.name}"
        if isinstance(value, Tensor):
            changed[field.name] = tensors[name].to(value.device)
        elif isinstance(value, int | float):
            changed[field.name] = type(value)(tensors[name].item())
        elif is_dataclass(value):
            changed[field.name] = _rebuilt(value, tensors, f"{name}.")
    return replace(like, **changed)
