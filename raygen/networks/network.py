"""A network as everything above sees it: a frozen module, its input, its class names, and the hash of its weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raygen.errors import NetworkError
from raygen.networks.graph.plain import copy_module
from raygen.networks.zoo.user_code import Search, folders_of

_LARGEST = 1e9
"""Of a mean or a divisor of pixels, which are 0 to 1, and of one over a divisor."""


@dataclass(frozen=True)
class Network:
    """A trained network that is only read.

    Attributes:
        name: what it is called in tables, rows and folders.
        module: in evaluation mode, no parameter requires a gradient; private, nobody else holds it.
        input_shape: (C, H, W).
        mean, std: one number a channel: network input = (pixel - mean) / std, pixels being 0 to 1.
        class_names: in the order of the outputs; empty where unknown.
        weights_hash: SHA-256 (hex) of the weights, see :func:`hash_weights`.
        fixed: names of the parameters that whoever made the module takes no gradients to, such as constants of a
            normalisation: training leaves them alone.
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    weights_hash: str
    fixed: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        # Where it is read, as in an actor, a user's classes must be found before the module that is made of them.
        folders = [*folders_of(self.module), *([str(Path.cwd())] if ":" in self.name else [])]
        fields = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return _read_network, (Search(folders), *fields)

    def pixels(self, x: Tensor) -> Tensor:
        """Return network inputs ``x`` (..., C, h, w) as pixels, 0 to 1 where they are an image's; not clipped."""
        mean, std = (x.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return x * std + mean


def wrap_network(
    module: nn.Module,
    *,
    name: str,
    input_shape: Sequence[int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] = (),
) -> Network:
    """Make a :class:`Network` of a copy of ``module``; the caller's module is not changed.

    Args:
        module: maps (N, C, H, W) to class scores.
        name: any name.
        input_shape: (C, H, W).
        mean: one number a channel, as in :class:`Network`; 0 where not given.
        std: likewise; 1 where not given.
        class_names: in the order of the outputs; may be empty.

    Raises:
        NetworkError: if the parts do not fit each other.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        what = f"input shape {tuple(input_shape)}"
        raise NetworkError(what, where=f"network {name}", right="give (channels, height, width), each at least 1")
    channels, height, width = input_shape
    mean = tuple(float(value) for value in (mean if mean is not None else [0.0] * channels))
    std = tuple(float(value) for value in (std if std is not None else [1.0] * channels))
    for label, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            what = f"{label} has {len(values)} numbers for {channels} input channels"
            raise NetworkError(what, where=f"network {name}", right="give one number for each channel")
    if min(std) <= 0:
        raise NetworkError(f"std {std}", where=f"network {name}", right="give numbers above 0")
    if max(map(abs, mean)) > _LARGEST or max(std) > _LARGEST or min(std) < 1 / _LARGEST:
        what = f"mean {mean[:3]} and std {std[:3]} lead images beyond what float32 holds"
        raise NetworkError(
            what, where=f"network {name}", right=f"give numbers up to {_LARGEST:g}, for pixels from 0 to 1"
        )
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        what, right = "is a TorchScript module, whose layers cannot be observed", "give the module that it was made of"
        raise NetworkError(what, where=f"network {name}", right=right)
    fixed = tuple(key for key, weights in module.named_parameters() if not weights.requires_grad)
    try:
        private = freeze(copy_module(module))
        weights_hash = hash_weights(private.state_dict())
    except Exception as error:  # such as weights that are quantised, or in a library's own format
        what = f"cannot be copied and read ({type(error).__name__}: {error})"
        raise NetworkError(what, where=f"network {name}", right="give a module with floating weights") from None
    shape = (int(channels), int(height), int(width))
    return Network(name, private, shape, mean, std, tuple(class_names), weights_hash, fixed)


def freeze(module: nn.Module) -> nn.Module:
    """Return ``module`` itself in evaluation mode, whatever its own ``eval`` does, without gradients to its weights."""
    module.eval()
    for part in module.modules():
        part.training = False
    for weights in module.parameters():
        weights.requires_grad_(False)
    return module


def hash_weights(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) over the names in sorted order, each with dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_network(search: Search, *fields: Any) -> Network:
    search.end()
    return Network(*fields)
