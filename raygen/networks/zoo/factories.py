"""Networks by name: what builds them, and what their input is by default."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from raygen.errors import NetworkError, WeightsError, closest
from raygen.networks.zoo.asked import DOWNLOADS
from raygen.networks.zoo.caffe import caffe_alexnet, caffenet, lenet, zeiler_fergus
from raygen.networks.zoo.user_code import import_factory, searched_last

_OWN: dict[str, Callable[..., nn.Module]] = {
    "lenet": lenet,
    "caffe_alexnet": caffe_alexnet,
    "caffenet": caffenet,
    "zeiler_fergus": zeiler_fergus,
}
# Caffe's mean of ImageNet, of pixels from 0 to 255, in red, green and blue.
_CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)
_TRANSFORMERS = ("maxvit_", "swin_", "vit_")
# torchvision's weights of these two expect their own normalisation after ImageNet's; initialising takes a minute.
_DEFAULTS = {name: {"init_weights": False, "transform_input": True} for name in ("googlenet", "inception_v3")}


@dataclass(frozen=True)
class Defaults:
    """What a network's input and classes are where nothing else says it."""

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] = ()


def known_networks() -> tuple[str, ...]:
    """Return the names that need no factory of the user: our own and torchvision's convolutional classifiers."""
    names = torchvision.models.list_models(module=torchvision.models)
    return (*_OWN, *(name for name in names if not name.startswith(_TRANSFORMERS)))


def build_network(
    name: str, arguments: Mapping[str, Any], seed: int = 0, *, code: str | None = None, most: int | None = None
) -> nn.Module:
    """Return a new module with weights initialised from ``seed``; torch's generators are left as they were.

    Args:
        name: one of ``known_networks``, or "package.module:factory": the caller knows that the user named it.
        arguments: of the factory.
        seed: of the weights.
        code: folder in which Python looks last for a user's package; the working directory if None.
        most: numbers that it may hold; any if None.

    Raises:
        NetworkError: if the name is unknown, the factory cannot be imported or fails, or the network is too large.
    """
    with searched_last(*([code or str(Path.cwd())] if ":" in name else [])):
        factory = _factory(name)
        where = f"network {name}"
        downloads = sorted(DOWNLOADS & set(arguments))
        if downloads and ":" not in name:
            raise NetworkError(f"arguments hold {downloads[0]}", where=where, right="give them as --weights")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                with nullcontext() if most is None else _AtMost(most, where):
                    module = factory(**{**_DEFAULTS.get(name, {}), **arguments})
            except NetworkError:
                raise
            except Exception as error:  # the factory may be the user's code
                given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
                what = f"cannot be built with ({given}): {type(error).__name__}: {error}"
                raise NetworkError(what, where=where, right="give arguments that its factory takes") from None
    if not isinstance(module, nn.Module):
        what = f"the factory returned a {type(module).__name__}"
        raise NetworkError(what, where=where, right="return a torch.nn.Module")
    return module


class _AtMost(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse to make tensors of more than ``most`` numbers in all, before there is memory for them."""

    def __init__(self, most: int, where: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._left, self._most, self._where = most, most, where

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _CREATES and args:
            self._left -= math.prod(args[0])
            if self._left < 0:
                what = f"its weights would be more than the {self._most:,} numbers that the file can hold"
                raise NetworkError(what, where=self._where, right="give the network or arguments of these weights")
        return func(*args, **(kwargs or {}))


_CREATES = frozenset(
    {torch.ops.aten.empty.memory_format, torch.ops.aten.zeros.default, torch.ops.aten.ones.default,
     torch.ops.aten.full.default, torch.ops.aten.randn.default, torch.ops.aten.rand.default}
)  # fmt: skip


def defaults_of(name: str, module: nn.Module) -> Defaults:
    """Return the input and class names that go with ``name``, from torchvision's metadata where it is torchvision's.

    For a network of the user only the number of channels is known, from its first convolution.
    """
    if name == "lenet":
        return Defaults((28, 28), 1, (0.0,), (256 / 255,), tuple(str(digit) for digit in range(10)))
    if name in _OWN:
        mean = tuple(value / 255 for value in _CAFFE_MEAN)
        imagenet = tuple(torchvision.models.AlexNet_Weights.DEFAULT.meta["categories"])
        side = 224 if name == "zeiler_fergus" else 227
        return Defaults((side, side), 3, mean, (1 / 255,) * 3, imagenet)
    if ":" in name:
        convolution = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
        return Defaults(channels=None if convolution is None else convolution.in_channels)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    categories = tuple(weights.meta["categories"])
    side = preset.crop_size[0]
    return Defaults((side, side), 3, tuple(preset.mean), tuple(preset.std), categories)


def download_weights(name: str) -> Mapping[str, Any]:
    """Return torchvision's own weights of ``name``, from its cache or its site.

    Raises:
        WeightsError: if there are none, or the site cannot be reached.
    """
    if name not in known_networks() or name in _OWN:
        raise WeightsError("there is no DEFAULT", where=f"weights of {name}", right="give --weights FILE")
    try:
        weights = torchvision.models.get_model_weights(name).DEFAULT
        tensors: Mapping[str, Any] = weights.get_state_dict(progress=False, check_hash=True, map_location="cpu")
    # No network, no room, a torn download: urllib, the file system and torch raise their own.
    except Exception as error:
        what = f"DEFAULT cannot be downloaded ({type(error).__name__}: {error})"
        right = "give --weights FILE, or run where torchvision's site can be reached"
        raise WeightsError(what, where=f"weights of {name}", right=right) from None
    return tensors


def _factory(name: str) -> Callable[..., Any]:
    if name in _OWN:
        return _OWN[name]
    if ":" in name:
        return import_factory(name)
    known = known_networks()
    if name not in known:
        right = closest(name, known) + ' (or "package.module:factory")'
        raise NetworkError("unknown network", where=f"network {name}", right=right)
    builder: Callable[..., Any] = torchvision.models.get_model_builder(name)
    return builder
