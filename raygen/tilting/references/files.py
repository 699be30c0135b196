"""A reference as a file: its tensors, and in the header what it is and which images it was fitted to."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from raygen.documents import parse_json
from raygen.errors import ScoreError, StoreError
from raygen.storage import Location, check_sealed, seal_tensors
from raygen.tilting.references.base import Reference, WhiteNoise, check_shape
from raygen.tilting.references.bounded import Bounded
from raygen.tilting.references.fitted import Fitted
from raygen.tilting.references.power_law import PowerLaw
from raygen.tilting.references.spectrum import FittedSpectrum

_FORMAT = "raygen-reference-1"
_KINDS: Mapping[str, type[Any]] = MappingProxyType(
    {"white": WhiteNoise, "power-law": PowerLaw, "fitted": Fitted, "fitted-spectrum": FittedSpectrum}
)

_LOGISTIC = "logistic"
"""The map of a bounded reference; its ``kind`` is that of its Gaussian."""

_BOUNDS = ("low", "high")

_MOST_NUMBERS = 2**26
"""Of an image of a reference that is read: few digits say its size, and its check makes one."""


@dataclass(frozen=True)
class Provenance:
    """What a reference was fitted to.

    Attributes:
        data_set: its name.
        data_hash: SHA-256 (hex) of its pixels.
        images: how many the fit saw.
        shape: (C, H, W) of the data set's images, of which the reference may be of a part.
        mean, std: of each channel, that turned pixels in 0..1 into its units; empty where it is not known.
    """

    data_set: str
    data_hash: str
    images: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def reference_kind(reference: Reference) -> str:
    """Return what kind a reference is of: "white", "power-law", "fitted", "fitted-spectrum", or "bounded" and these."""
    gaussian = reference.base if isinstance(reference, Bounded) else reference
    kind = next((name for name, type_ in _KINDS.items() if type(gaussian) is type_), type(gaussian).__name__)
    return f"bounded {kind}" if isinstance(reference, Bounded) else kind


def save_reference(path: Path | str, reference: Reference, provenance: Provenance | None = None) -> None:
    """Write a reference as a safetensors file, whole or not at all.

    Args:
        path: of the file; its folder exists.
        reference: one of raygen's own.
        provenance: what it was fitted to; None for one that was not.

    Raises:
        StoreError: if the file cannot be written.
    """
    gaussian = reference.base if isinstance(reference, Bounded) else reference
    kind = next(name for name, type_ in _KINDS.items() if type(gaussian) is type_)
    fields = {field.name: getattr(gaussian, field.name) for field in dataclasses.fields(_KINDS[kind])}
    tensors = {name: value.cpu().contiguous() for name, value in fields.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in fields.items() if not isinstance(value, Tensor)}
    metadata = {"format": _FORMAT, "kind": kind, "values": json.dumps(values)}
    if isinstance(reference, Bounded):
        metadata["bounded"] = _LOGISTIC
        tensors |= {name: value.cpu().contiguous() for name, value in zip(_BOUNDS, reference.bounds, strict=True)}
    if provenance is not None:
        metadata["provenance"] = json.dumps(dataclasses.asdict(provenance))
    path = Path(path)
    folder = Location.of(str(path.parent))
    if not folder.exists(""):
        raise StoreError("cannot be written (there is no such folder)", where=str(path),
                         right="give a file in a folder that exists")  # fmt: skip
    folder.write(path.name, seal_tensors(save(tensors, metadata)))


def load_reference(path: Path | str, shape: tuple[int, int, int] | None = None) -> tuple[Reference, Provenance | None]:
    """Read a reference, on the CPU, with what it was fitted to.

    Args:
        path: of the file.
        shape: (C, H, W) that it must have; any, where not given.

    Raises:
        StoreError: if the file cannot be read or holds no reference.
        ScoreError: if the reference is of another shape.
    """
    try:
        _check(Path(path))
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        reference = _rebuilt(metadata, tensors)
        known = parse_json(metadata["provenance"]) if "provenance" in metadata else None
        known = known and {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        provenance = None if known is None else Provenance(**known)
    except FileNotFoundError as error:
        raise StoreError("there is no such file", where=str(path),
                         right="give a file that raygen reference wrote") from error  # fmt: skip
    except (OSError, MemoryError, SafetensorError, LookupError, ValueError, ArithmeticError, AttributeError,
            TypeError, RuntimeError, ScoreError) as error:  # fmt: skip
        raise StoreError(f"is no reference that can be read ({error})", where=str(path),
                         right="give a file that raygen reference wrote") from error  # fmt: skip
    if shape is not None and reference.shape != tuple(shape):
        raise ScoreError(f"a reference of shape {reference.shape} for images of shape {tuple(shape)}", where=str(path),
                         right="fit one to images of that shape")  # fmt: skip
    return reference, provenance


def _check(path: Path) -> None:
    """Raise ValueError if a file is none, or holds something else than was written."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")  # to open a pipe would wait for ever
    with path.open("rb") as stream:
        check_sealed(stream)


def _rebuilt(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Reference:
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"its format is {metadata.get('format')!r}")
    values = parse_json(metadata["values"])
    shape = tuple(values["shape"])
    check_shape(shape)
    if math.prod(shape) > _MOST_NUMBERS:
        raise ValueError(f"its images are of more than {_MOST_NUMBERS:,} numbers")
    bounds = {name: tensors[name] for name in _BOUNDS if "bounded" in metadata}
    own = {name: value for name, value in tensors.items() if name not in bounds}
    reference: Reference = _KINDS[metadata["kind"]](**values | {"shape": shape}, **own)
    if bounds:
        if metadata["bounded"] != _LOGISTIC:
            raise ValueError(f"its bounds are {metadata['bounded']!r}")
        reference = Bounded(reference, **bounds)
    # What a fault in a tensor's size or values would spoil.
    image = reference.image(torch.ones((1, *reference.shape)))
    sound = image.is_floating_point() and image.shape == (1, *reference.shape) and bool(image.isfinite().all())
    if not sound:
        raise ValueError("its tensors do not fit its shape, or are not finite")
    return reference
