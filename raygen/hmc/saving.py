"""States as named tensors and back, so that chains left at any point continue elsewhere, bit for bit.

A state is a tree: a frozen dataclass of tensors, numbers, other dataclasses or None, and of tuples of numbers, bytes or
dataclasses.
There is no random state to save: :class:`raygen.hmc.Streams` derive every number from what it is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import accumulate, count
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from raygen.errors import StoreError

Tree = TypeVar("Tree")
Tensors = Mapping[str, Tensor]
"""Tensors by dotted name; those of a part have its name and a dot before their own."""

CONSTANT: Mapping[str, Any] = MappingProxyType({"constant": True})
"""Metadata of a field that never changes: it is not saved, and given again where a tree is rebuilt."""

ON_CPU: Mapping[str, Any] = MappingProxyType({"on_cpu": True})
"""Metadata of a field whose tensors are on the CPU wherever the chains are."""

_NUMBERS = (bool, int, float)


def to_tensors(tree: Any) -> dict[str, Tensor]:
    """Return all that changes in a tree, as CPU tensors by dotted name.

    Numbers become float64 or int64 tensors without dimensions, tuples of numbers have one dimension. Bytes of a tuple
    become one uint8 tensor, with their sizes beside it under ``sizes``. None and empty tuples leave no name.

    Raises:
        TypeError: if something in the tree is of another kind and not marked ``CONSTANT``.
    """
    return dict(_named("", tree))


def rebuild(
    kind: type[Tree], tensors: Tensors, device: torch.device, given: Mapping[Any, Any] = MappingProxyType({})
) -> Tree:
    """Return the tree of type ``kind`` that :func:`to_tensors` was given.

    Args:
        kind: a dataclass, whose annotations say what each name holds.
        tensors: as they were saved.
        device: of the tensors in the tree, those of fields marked ``ON_CPU`` apart.
        given: by the type that a field is annotated with, the class that is meant there (where the annotation is a
            protocol), or the object itself (for what is not saved).

    Raises:
        StoreError: naming a tensor that is missing or left over, or does not fit the type of its field.
    """
    reader = _Reader(dict(tensors), given)
    tree: Tree = reader.dataclass(kind, "", device)
    if reader.left:
        raise _misfit(f"there is no room for {', '.join(sorted(reader.left))}")
    return tree


def check_alike(tree: Any, like: Any) -> None:
    """Refuse a tree whose tensors are not named, shaped and typed as those of ``like``.

    Raises:
        StoreError: naming those that differ.
    """
    (found, known) = ({name: (tensor.shape, tensor.dtype) for name, tensor in _named("", one)} for one in (tree, like))
    if different := {name for name in found.keys() | known.keys() if found.get(name) != known.get(name)}:
        raise StoreError(f"saved chains do not fit in {', '.join(sorted(different))}", where="chain state",
                         right="take up a state with the settings that it was saved with")  # fmt: skip


def _named(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a value, under its name."""
    if isinstance(value, Tensor):
        yield name, value.detach().cpu().contiguous().clone()  # two may share memory
    elif isinstance(value, int | float):
        yield name, torch.tensor(value, dtype=_dtype(value))
    elif is_dataclass(value):
        for field in fields(value):
            if not field.metadata.get("constant"):
                yield from _named(_below(name, field.name), getattr(value, field.name))
    elif isinstance(value, tuple):
        yield from _named_items(name, value)
    elif value is not None:
        raise TypeError(f"{name} is a {type(value).__name__}, which is not saved: mark the field as CONSTANT")


def _named_items(name: str, values: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    if values and isinstance(values[0], bytes):
        yield name, torch.from_numpy(np.frombuffer(bytearray(b"".join(values)), np.uint8))
        yield _below(name, "sizes"), torch.tensor([len(value) for value in values])
    elif values and isinstance(values[0], int | float):
        yield name, torch.tensor(values, dtype=_dtype(values[0]))
    else:
        for index, value in enumerate(values):
            yield from _named(_below(name, str(index)), value)


class _Reader:
    """Takes the parts of a tree out of tensors; what stays in ``left`` belongs to none."""

    def __init__(self, tensors: dict[str, Tensor], given: Mapping[Any, Any]) -> None:
        self.left = tensors
        self._given = given

    def dataclass(self, kind: type[Any], name: str, device: torch.device) -> Any:
        """Return the dataclass under ``name``."""
        hints = get_type_hints(kind)
        values = {
            field.name: self._field(field, hints[field.name], _below(name, field.name), device)
            for field in fields(kind)
        }
        return kind(**values)

    def _field(self, field: Field[Any], hint: Any, name: str, device: torch.device) -> Any:
        meant = self._given.get(hint, hint)
        if hint in self._given and not isinstance(meant, type):
            return meant
        if field.metadata.get("constant"):
            return _default(field, name)
        if self._known(name) or is_dataclass(meant):
            return self._value(meant, name, torch.device("cpu") if field.metadata.get("on_cpu") else device)
        if get_origin(meant) is tuple:
            return ()
        if type(None) in get_args(meant):
            return None
        raise _misfit(f"there is no {name}")

    def _known(self, name: str) -> bool:
        return any(own == name or own.startswith(f"{name}.") for own in self.left)

    def _value(self, hint: Any, name: str, device: torch.device) -> Any:
        if type(None) in get_args(hint):
            (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
        if is_dataclass(hint) and isinstance(hint, type):
            return self.dataclass(hint, name, device)
        if get_origin(hint) is tuple:
            return self._items(get_args(hint)[0], name, device)
        # A matrix product may depend on how memory is aligned: a copy lies where the device's allocator puts it.
        return self._take(name).to(device).clone() if hint is Tensor else hint(self._take(name).item())

    def _items(self, kind: type[Any], name: str, device: torch.device) -> tuple[Any, ...]:
        if kind is bytes:
            return _split(name, self._take(name), self._take(_below(name, "sizes")))
        if kind in _NUMBERS:
            return tuple(self._take(name).tolist())
        names = (_below(name, str(index)) for index in count())
        items = []
        while self._known(own := next(names)):
            items.append(self._value(kind, own, device))
        return tuple(items)

    def _take(self, name: str) -> Tensor:
        if name not in self.left:
            raise _misfit(f"there is no {name}")
        return self.left.pop(name)


def _dtype(number: float) -> torch.dtype:
    return torch.float64 if isinstance(number, float) else torch.int64


def _below(name: str, own: str) -> str:
    return f"{name}.{own}" if name else own


def _default(field: Field[Any], name: str) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    if field.default is MISSING:
        raise _misfit(f"nothing is given for {name}")
    return field.default


def _split(name: str, joined: Tensor, sizes: Tensor) -> tuple[bytes, ...]:
    ends, data = [*accumulate(sizes.tolist())], joined.numpy().tobytes()
    if ends[-1:] != [len(data)]:
        raise _misfit(f"{name} holds {len(data)} bytes of {ends[-1:]}")
    return tuple(data[end - size : end] for end, size in zip(ends, sizes.tolist(), strict=True))


def _misfit(what: str) -> StoreError:
    return StoreError(what, where="chain state", right="start the chains again")
