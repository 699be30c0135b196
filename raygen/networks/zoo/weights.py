"""Weight files: reading tensors and nothing else, fitting them to a module, and raygen's checkpoints."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
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
_AVERAGED = "n_averaged"  # the counter of torch's AveragedModel
_MOST_PREFIXES = 100
_HOLDERS = {"module", "_orig_mod", "model", "net", "network", "backbone", "ema", "ema_model", "model_ema", "student",
            "teacher", "averaged_model"}  # fmt: skip
"""What training programs call the network that they hold beside other things."""
_WRAPPED = 10
"""Mappings around a state_dict."""
_UNPACKED = 20
"""Bytes that a byte of a file may unpack to."""
_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors")
_RIGHT = "give a whole .safetensors file, or a .pt, .pth or .ckpt file with a state_dict"


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
    if path.suffix not in _SUFFIXES:
        raise WeightsError(f"unknown kind of file {path.suffix!r}", where=where, right=_RIGHT)
    try:
        values = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    except Exception as error:  # a damaged file may raise anything in the reader
        raise WeightsError(f"cannot be read as tensors ({_short(error)})", where=where, right=_RIGHT) from None
    return state_dict_of(values, where)


def fit_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Copy ``tensors`` into ``module``.

    Names are taken as they are. Where they do not fit, they are tried without what training programs put before them
    (``module.``, ``model._orig_mod.``), whatever else these have saved beside the network; and as older versions of
    DenseNet wrote them. Of tensors that the module shares under several names one is enough.

    Raises:
        WeightsError: if names are missing or unexpected, shapes differ, or a value cannot be taken as it is; then
            nothing is copied.
    """
    own = module.state_dict()
    fitting = [(named, faults) for named in _namings(own, tensors) for faults in (_misfits(own, named),)]
    fits = [named for named, faults in fitting if not faults]
    if not fits:
        right = "give the weights of this network, or the network and arguments of these weights"
        faults = min((faults for _, faults in fitting), key=lambda faults: sum(len(names) for _, names in faults))
        listed = "; ".join(f"{len(names)} {label}: {_first(names)}" for label, names in faults)
        raise WeightsError(f"does not fit the network; {listed}", where=where, right=right)
    if len(fits) > 1 and not all(_same(fits[0], other, own) for other in fits[1:]):
        what = f"holds {len(fits)} networks that fit"
        raise WeightsError(what, where=where, right="save the state_dict of one of them alone")
    values = {name: _as_own(name, value, own[name], where) for name, value in fits[0].items() if name in own}
    module.load_state_dict(values, strict=False)


def _namings(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors by names that the module may have for them, first as they are."""
    yield dict(tensors)
    # torchvision's own DenseNet files name their layers as an older version did: norm.1 for norm1.
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    if any(old.search(name) for name in tensors):
        tensors = {old.sub(r"\1\2", name): value for name, value in tensors.items()}
        yield dict(tensors)
    # A name that ends with one of the module's own shows what stands before it; of several, since one may be shared.
    anchors = sorted(own, key=len)[:3]
    before = {name.removesuffix(part) for name in tensors for part in anchors if name.endswith("." + part)}
    for prefix in sorted(before, key=len)[:_MOST_PREFIXES]:
        within = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        # Beside a part of a larger network lies the rest of it, beside a whole one what a program keeps for itself.
        if len(within) == len(tensors) or set(prefix.rstrip(".").split(".")) <= _HOLDERS:
            yield within


def _misfits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[tuple[str, list[str]]]:
    """Return what does not fit, by kind; nothing where all does."""
    shared = {_memory(own[name]) for name in tensors if name in own}
    # Files from before batch norm counted its batches lack the counter; evaluation does not use it.
    missing = [
        name
        for name, value in own.items()
        if name not in tensors and not name.endswith("num_batches_tracked") and _memory(value) not in shared
    ]
    unexpected = [name for name in tensors if name not in own]
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return [(label, names) for label, names in parts if names]


def _memory(tensor: Tensor) -> tuple[object, ...]:
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (id(tensor),)


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in own if name in first and name in second)


def _as_own(name: str, value: Tensor, own: Tensor, where: str) -> Tensor:
    """Return ``value`` as the module's tensor takes it; refuse what would lose more than digits."""
    if value.is_meta or value.is_nested or value.is_quantized:
        kind = "no values (meta)" if value.is_meta else "quantised values" if value.is_quantized else "a nested tensor"
        raise WeightsError(f"{name} holds {kind}", where=where, right="give plain floating tensors")
    dense = value if value.layout == torch.strided else value.to_dense()
    if not torch.can_cast(value.dtype, own.dtype) or (own.is_floating_point() and not value.is_floating_point()):
        whole = own.dtype == torch.int64 and bool((dense.to(own.dtype) == dense).all())
        if not whole:
            raise WeightsError(f"{name} holds {_kind(value)} instead of {_kind(own)}", where=where,
                               right="give the weights before they were converted")  # fmt: skip
    return dense


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
            raise WeightsError(what, where=where, right=_RIGHT)
    return {name: value for name, value in values.items() if name != _AVERAGED}


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
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            size = sum(part.file_size for part in packed.infolist())
        # torch stores its tensors as they are; what is packed may be a thousand times as large.
        if size > _UNPACKED * path.stat().st_size:
            raise ValueError(f"it would unpack to {size:,} bytes")
    return torch.load(path, map_location="cpu", weights_only=True)


def _first(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _short(error: Exception, limit: int = 120) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:limit]}" if text else type(error).__name__
