"""Weight files: reading tensors and nothing else, fitting them to a module, and raygen's checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from raygen.errors import StoreError, WeightsError
from raygen.networks.network import hash_weights
from raygen.storage import Location, check_sealed, seal_tensors

KEY = "raygen"  # of the safetensors header's metadata that makes a file a raygen checkpoint
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_RIGHT = "give a whole .safetensors file, or a .pt or .pth file with a state_dict"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state_dict from ``path`` on the CPU; wrappers and the prefixes of parallel modules are taken off.

    Nothing but tensors is loaded: a file that holds code is refused and its code does not run.

    Raises:
        WeightsError: if the file is missing, torn, or holds something else.
    """
    where = f"weights {path}"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise WeightsError(what, where=where, right=_RIGHT)
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise WeightsError(f"unknown kind of file {path.suffix!r}", where=where, right=_RIGHT)
    try:
        values = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    except Exception as error:  # a damaged file may raise anything in the reader
        raise WeightsError(f"cannot be read as tensors ({_short(error)})", where=where, right=_RIGHT) from None
    return state_dict_of(values, where)


def fit_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Copy ``tensors`` into ``module``.

    Raises:
        WeightsError: if names are missing or unexpected, or shapes differ; then nothing is copied.
    """
    own = module.state_dict()
    tensors = _without_prefix(own, tensors)
    # Files from before batch norm counted its batches lack the counter; evaluation does not use it.
    missing = [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in own]
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    faults = [f"{len(names)} {label}: {_first(names)}" for label, names in parts if names]
    if faults:
        right = "give the weights of this network, or the network and arguments of these weights"
        raise WeightsError("does not fit the network; " + "; ".join(faults), where=where, right=right)
    module.load_state_dict(dict(tensors), strict=False)


def read_description(path: str | Path) -> dict[str, Any] | None:
    """Return what a raygen checkpoint says of its network, or None for any other readable weight file.

    Raises:
        WeightsError: if a .safetensors file cannot be read.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    where = f"weights {path}"
    try:
        with path.open("rb") as stream:
            check_sealed(stream, whole=False)
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
        description = None if text is None else json.loads(text)
    except Exception as error:  # a damaged file may raise anything in the reader
        raise WeightsError(f"cannot be read as tensors ({_short(error)})", where=where, right=_RIGHT) from None
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
    """Take wrappers and prefixes off what a weight file held.

    Raises:
        WeightsError: naming ``where``, if it is no mapping of names to tensors.
    """
    while isinstance(values, Mapping) and (inner := _wrapped(values)) is not None:
        values = inner
    if not isinstance(values, Mapping) or not values:
        what = "holds no tensors" if isinstance(values, Mapping) else f"holds a {type(values).__name__}"
        raise WeightsError(what, where=where, right=_RIGHT)
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            what = f"entry {str(name)!r} is a {type(value).__name__}, not a tensor"
            raise WeightsError(what, where=where, right=_RIGHT)
    tensors: dict[str, Tensor] = dict(values)
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    # torchvision's own DenseNet files name their layers as an older version did: norm.1 for norm1.
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    return {old.sub(r"\1\2", name): value for name, value in tensors.items()}


def _wrapped(values: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    """Return the state_dict that a training program saved among other things, None where ``values`` is one itself."""
    known = [values[name] for name in _WRAPPERS if isinstance(values.get(name), Mapping)]
    if known or any(isinstance(value, Tensor) for value in values.values()):
        return known[0] if known else None
    others = [value for value in values.values() if isinstance(value, Mapping) and _holds_tensors(value)]
    return others[0] if len(others) == 1 else None


def _holds_tensors(values: Mapping[Any, Any]) -> bool:
    return bool(values) and all(isinstance(value, Tensor) for value in values.values())


def _without_prefix(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take off the name that a training program gave the whole network (``model.``), where no name fits with it."""
    prefixes = {name.split(".")[0] + "." for name in tensors}
    if len(prefixes) != 1 or any(name in own for name in tensors):
        return tensors
    shorter = {name.removeprefix(next(iter(prefixes))): value for name, value in tensors.items()}
    return shorter if any(name in own for name in shorter) else tensors


def _load_safetensors(path: Path) -> Any:
    with path.open("rb") as stream:
        check_sealed(stream)
    return safetensors.torch.load_file(path)


def _load_pickle(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _first(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _short(error: Exception, limit: int = 120) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:limit]}" if text else type(error).__name__
