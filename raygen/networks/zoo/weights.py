"""Weight files: reading tensors and nothing else, and raygen's checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from raygen.documents import parse_json
from raygen.errors import StoreError, WeightsError
from raygen.networks.network import hash_weights
from raygen.networks.settings import WEIGHT_FILES
from raygen.networks.zoo.fitting import said_by
from raygen.storage import Location, check_pickled, check_sealed, seal_tensors

KEY = "raygen"  # of the safetensors header's metadata that makes a file a raygen checkpoint
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_WRAPPED = 10
"""Mappings around a state_dict."""
_RIGHT = "give a whole .safetensors file, or a file by torch.save with a state_dict, such as .pt, .pth or .ckpt"
_PICKLED = (b"PK\x03\x04", b"\x80")
"""How files by torch.save begin: newer ones as a zip, older ones as a pickle."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state_dict from ``path`` on the CPU, out of what a training program wrapped around it.

    Nothing but tensors is loaded: a file that holds code is refused and its code does not run.

    Raises:
        WeightsError: if the file is missing, torn, or holds something else.
    """
    where = f"weights {path}"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise WeightsError(what, where=where, right=_RIGHT)
    try:
        read = _reader_of(path)
        values = None if read is None else read(path)
    except Exception as error:  # a damaged file may raise anything in the reader
        raise WeightsError(f"cannot be read as tensors ({said_by(error)})", where=where, right=_RIGHT) from None
    if read is None:
        raise WeightsError(f"unknown kind of file {path.suffix!r}", where=where, right=_RIGHT)
    return state_dict_of(values, where)


def is_safetensors(path: Path) -> bool:
    """Say whether the file is called so, or begins as one: the length of a header, then a JSON object."""
    return path.suffix == ".safetensors" or _head(path)[8:] == b"{"


def _reader_of(path: Path) -> Callable[[Path], Any] | None:
    """Return what reads a file that begins, or is called, as a weight file does."""
    if is_safetensors(path):
        return _load_safetensors
    return _load_pickle if path.suffix in WEIGHT_FILES or _head(path).startswith(_PICKLED) else None


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(9)


def read_description(path: str | Path) -> dict[str, Any] | None:
    """Return what a raygen checkpoint says of its network, or None for any other readable weight file.

    Raises:
        WeightsError: if a .safetensors file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        return None
    where = f"weights {path}"
    try:
        if not is_safetensors(path):
            return None
        with path.open("rb") as stream:
            check_sealed(stream, whole=False)
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
        description = None if text is None else parse_json(text)
    except Exception as error:  # a damaged file may raise anything in the reader
        raise WeightsError(f"cannot be read as tensors ({said_by(error)})", where=where, right=_RIGHT) from None
    if description is not None and not isinstance(description, dict):
        raise WeightsError("its description is no mapping", where=where, right="give a checkpoint that raygen wrote")
    return description


def save_checkpoint(path: str | Path, module: nn.Module, description: Mapping[str, Any]) -> str:
    """Write a raygen checkpoint whole, under a temporary name, then rename it.

    Args:
        path: a .safetensors file; its folder is made.
        module: the weights.
        description: see ``encode_checkpoint``.

    Returns:
        the hash of the weights.

    Raises:
        WeightsError: if the name does not end in .safetensors, or the folder cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError("unknown kind of file", where=f"checkpoint {path}", right="give a name in .safetensors")
    data = encode_checkpoint(module, description)
    try:
        Location.of(str(path.parent)).write(path.name, data)
    except StoreError as error:
        raise WeightsError(error.what, where=f"checkpoint {path}", right=error.right) from None
    return hash_weights(module.state_dict())


def encode_checkpoint(module: nn.Module, description: Mapping[str, Any]) -> bytes:
    """Return a raygen checkpoint: a safetensors file.

    Args:
        module: the weights.
        description: "network", "arguments", "input_shape", "mean", "std", "class_names", as in NetworkSettings and
            Network; further keys ("log_z") are kept as they are. Plain JSON values.
    """
    # Copies, since safetensors refuses tensors that share memory.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}
    return seal_tensors(safetensors.torch.save(tensors, {"format": "pt", KEY: json.dumps(dict(description))}))


def state_dict_of(values: Any, where: str) -> dict[str, Tensor]:
    """Take off what a training program wrapped around the state_dict that a weight file held.

    Raises:
        WeightsError: naming ``where``, if it is no mapping of names to tensors.
    """
    for _ in range(_WRAPPED):  # one that holds itself never ends
        inner = _wrapped(values) if isinstance(values, Mapping) else None
        if inner is None:
            break
        values = inner
    if not isinstance(values, Mapping) or not values:
        what = "holds no tensors" if isinstance(values, Mapping) else f"holds a {type(values).__name__}"
        raise WeightsError(what, where=where, right=_RIGHT)
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            what = f"entry {str(name)!r} is a {type(value).__name__}, not a tensor"
            if not isinstance(name, str):
                what = f"a tensor is called {name!r}, which is no name"
            raise WeightsError(what, where=where, right=_RIGHT)
    return dict(values)


def _wrapped(values: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    """Return the state_dict that a training program saved among other things, None where ``values`` is one itself."""
    known = [values[name] for name in _WRAPPERS if isinstance(values.get(name), Mapping)]
    if known or any(isinstance(value, Tensor) for value in values.values()):
        return known[0] if known else None
    others = [value for value in values.values() if isinstance(value, Mapping) and _holds_tensors(value)]
    return others[0] if len(others) == 1 else None


def _holds_tensors(values: Mapping[Any, Any]) -> bool:
    return bool(values) and all(isinstance(value, Tensor) for value in values.values())


def _load_safetensors(path: Path) -> Any:
    with path.open("rb") as stream:
        check_sealed(stream)
    return safetensors.torch.load_file(path)


def _load_pickle(path: Path) -> Any:
    with path.open("rb") as stream:
        check_pickled(stream)
    return torch.load(path, map_location="cpu", weights_only=True)
