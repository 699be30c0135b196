"""Which tensors of a weight file a module takes: by name, and only such as lose nothing but digits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from raygen.errors import WeightsError
from raygen.text import first_of

_AVERAGED = "n_averaged"  # the counter of torch's AveragedModel
_WITHIN = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What wrappers of a part put in the middle of names: DataParallel, torch.compile, FSDP, checkpointed activations."""
_MOST_PREFIXES = 100
_HOLDERS = {"module", "_orig_mod", "model", "net", "network", "backbone", "ema", "ema_model", "model_ema", "student",
            "teacher", "averaged_model"}  # fmt: skip
"""What training programs call the network that they hold beside other things."""


def fit_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Copy ``tensors`` into ``module``.

    Names are taken as they are. Where they do not fit, they are tried without what training programs put before them
    (``module.``, ``model._orig_mod.``), or around a part of it, whatever else these have saved beside the network; and
    as older versions of DenseNet wrote them. Of tensors that the module shares under several names one is enough.

    Raises:
        WeightsError: if names are missing or unexpected, shapes differ, or a value cannot be taken as it is, when
            nothing is copied; or if the module does not let itself be loaded.
    """
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    fitting = [(named, faults) for named in _namings(own, tensors) for faults in (_misfits(own, named),)]
    fits = [named for named, faults in fitting if not faults]
    if not fits:
        right = "give the weights of this network, or the network and arguments of these weights"
        faults = min((faults for _, faults in fitting), key=lambda faults: sum(len(names) for _, names in faults))
        listed = "; ".join(f"{len(names)} {label}: {first_of(names)}" for label, names in faults)
        raise WeightsError(f"does not fit the network; {listed}", where=where, right=right)
    if len(fits) > 1 and not all(_same(fits[0], other, own) for other in fits[1:]):
        what = f"holds {len(fits)} networks that fit"
        raise WeightsError(what, where=where, right="save the state_dict of one of them alone")
    values = {name: _as_own(name, value, own[name], where) for name, value in fits[0].items() if name in own}
    _check_shared(own, values, where)
    try:
        module.load_state_dict(values, strict=False)
    except Exception as error:  # what it holds may be such as nothing is copied to, and its hooks are the user's code
        right = "give a network whose weights can be loaded"
        raise WeightsError(f"cannot be loaded into the network ({said_by(error)})", where=where, right=right) from None


def _namings(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors by names that the module may have for them, first as they are."""
    if _AVERAGED not in own:
        tensors = {name: value for name, value in tensors.items() if name != _AVERAGED}
    yield from _outer_namings(own, tensors)
    own_names = {_without_wrappers(name): name for name in own}
    shorter = {_without_wrappers(name): value for name, value in tensors.items()}
    changed = set(own_names) != set(own) or set(shorter) != set(tensors)
    if changed and len(own_names) == len(own) and len(shorter) == len(tensors):
        for named in _outer_namings(own_names, shorter):
            yield {own_names.get(name, name): value for name, value in named.items()}


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WITHIN)


def _outer_namings(own: Iterable[str], tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors by their names, by those of old files, and without what stands before a network's."""
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
        f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in tensors.items()
        if name in own and not value.is_nested and value.shape != own[name].shape  # a nested one has no shape
    ]
    parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return [(label, names) for label, names in parts if names]


def _memory(tensor: Tensor) -> tuple[object, ...]:
    return (
        (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() and not tensor.is_meta else (id(tensor),)
    )


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    return all(_equal(first[name], second[name]) for name in own if name in first and name in second)


def _equal(first: Tensor, second: Tensor) -> bool:
    """Whether two are one tensor, or two plain ones of the same values: of others torch compares hardly any."""
    plain = all(each.layout == torch.strided and not _unusual(each) for each in (first, second))
    return first is second or (plain and first.dtype == second.dtype and torch.equal(first, second))


def _check_shared(own: Mapping[str, Tensor], values: Mapping[str, Tensor], where: str) -> None:
    """Check that what the module shares under several names has one value: the last name would win."""
    seen: dict[tuple[object, ...], str] = {}
    for name, value in values.items():
        first = seen.setdefault(_memory(own[name]), name)
        if first != name and not torch.equal(values[first].to(own[name].dtype), value.to(own[name].dtype)):
            what = f"{first} and {name} have different values, and are one tensor of the network"
            raise WeightsError(what, where=where, right="give the network that these weights were trained with")


def _as_own(name: str, value: Tensor, own: Tensor, where: str) -> Tensor:
    """Return ``value`` as the module's tensor takes it; refuse what would lose more than digits."""
    if unusual := _unusual(value):
        raise WeightsError(f"{name} holds {unusual}", where=where, right="give plain floating tensors")
    dense = value if value.layout == torch.strided else value.to_dense()
    if own.is_floating_point() or own.is_complex():
        fits = torch.can_cast(value.dtype, own.dtype) and (value.is_floating_point() or value.is_complex())
        beyond = fits and torch.finfo(value.dtype).max > torch.finfo(own.dtype).max
        if beyond and not torch.equal(dense.isfinite(), dense.to(own.dtype).isfinite()):
            raise WeightsError(f"{name} holds numbers beyond {_kind(own)}", where=where, right="give smaller ones")
    else:
        fits = not value.is_complex() and torch.equal(dense.to(own.dtype).to(value.dtype), dense)
    if not fits:
        raise WeightsError(f"{name} holds {_kind(value)} instead of {_kind(own)}", where=where,
                           right="give the weights before they were converted")  # fmt: skip
    return dense


def _unusual(tensor: Tensor) -> str:
    """Return what a tensor holds in place of plain numbers; nothing where it holds these."""
    kinds = (
        (tensor.is_meta, "no values (meta)"),
        (tensor.is_nested, "a nested tensor"),
        (tensor.is_quantized, "quantised values"),
    )
    return next((kind for is_so, kind in kinds if is_so), "")


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def said_by(error: Exception, limit: int = 120) -> str:
    """Return what torch said of weights that it does not take, in short."""
    text = " ".join(str(error).split())
    # torch begins with advice to load the file with its code.
    if isinstance(error, UnpicklingError) and (found := re.search(r"GLOBAL (\S+)", text)):
        return f"it holds a {found[1]}, and not tensors alone"
    return f"{type(error).__name__}: {text[:limit]}" if text else type(error).__name__
