"""From settings to a network with its weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.nn.parameter import is_lazy

from raygen.documents import read_text
from raygen.errors import NetworkError, SettingsError, WeightsError
from raygen.networks.graph.plain import first_real
from raygen.networks.network import Network, wrap_network
from raygen.networks.settings import NetworkSettings, with_metadata
from raygen.networks.zoo.asked import LARGEST_INPUT, check_asked, check_size, note_named
from raygen.networks.zoo.factories import Defaults, build_network, defaults_of, download_weights
from raygen.networks.zoo.fitting import fit_weights
from raygen.networks.zoo.weights import read_description, read_tensors, state_dict_of
from raygen.settings import Settings


class _Description(Settings):
    """The part of a checkpoint's description that says which network it is."""

    network: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()


def load_network(settings: NetworkSettings, *, seed: int = 0, code: str | None = None) -> Network:
    """Build the network that ``settings`` name and load its weights.

    ``weights`` is a file (a state_dict in .pt, .pth, .ckpt or .safetensors, or a raygen checkpoint, which also says
    which network it is), "DEFAULT" for torchvision's download, or "random" for the untrained network of ``seed``.
    What settings give explicitly goes before what a file beside the weights says, and that before what the checkpoint
    or torchvision say of the input and the classes; see :mod:`raygen.networks.settings`. A factory is imported only
    where the settings name it explicitly: a file may ask for networks that are built in, and for those within bounds.

    Args:
        settings: which network and weights.
        seed: of the untrained network.
        code: folder in which Python looks last for a user's package; the working directory if None.

    Raises:
        NetworkError: if the network is unknown, cannot be built, has no weights given, or does not take its input; or
            if a file asks for a factory.
        WeightsError: if the weights cannot be read or do not fit.
    """
    given = settings
    settings, names = with_metadata(settings)
    description = None if settings.weights is None else _describe(settings.weights)
    if description is not None:
        _check_same(settings, description)
        settings = settings.model_copy(update={"network": description.network, "arguments": description.arguments})
    asked = (settings.network, settings.arguments) != (given.network, given.arguments)
    most = check_asked(settings, given) if asked else None
    module = _widened(_unwrapped(build_network(settings.network, settings.arguments, seed, code=code, most=most)))
    if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
        _fix_sizes(module, settings, description, seed, given)
    _load_weights(module, settings)
    note_named(given)
    return _with_input(module, settings, description, names, given)


def _describe(weights: str) -> _Description | None:
    values = read_description(weights)
    if values is None:
        return None
    try:
        known = {key: values[key] for key in _Description.model_fields if key in values}
        return _Description.parse(known, where=f"weights {weights}")
    except SettingsError as error:
        raise WeightsError(error.what, where=error.where, right="give a checkpoint that raygen wrote") from None


def _check_same(settings: NetworkSettings, description: _Description) -> None:
    where = f"weights {settings.weights}"
    for field in ("network", "arguments"):
        given, stored = getattr(settings, field), getattr(description, field)
        if field in settings.model_fields_set and given != stored:
            what = f"is a checkpoint with {field} {stored}, asked for was {given}"
            raise NetworkError(what, where=where, right=f"leave {field} out, or give other weights")


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return the network inside of what a factory made parallel, compiled or averaged."""
    kinds = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    while isinstance(module, kinds) or type(module).__name__ == "OptimizedModule":
        inner = module._orig_mod if type(module).__name__ == "OptimizedModule" else module.module
        assert isinstance(inner, nn.Module)
        module = inner
    return module


def _widened(module: nn.Module) -> nn.Module:
    """Return a network in half precision in float32, which holds the same numbers: CPUs compute little below it."""
    low = {torch.float16, torch.bfloat16}
    return module.float() if any(values.dtype in low for values in module.parameters()) else module


def _fix_sizes(
    module: nn.Module, settings: NetworkSettings, stored: _Description | None, seed: int, given: NetworkSettings
) -> None:
    """Let lazy layers take their sizes from an image, and their first weights from ``seed``."""
    default = Defaults() if stored is None else _stored_defaults(stored)
    channels = settings.channels or default.channels
    size = settings.sides or default.size
    if channels is None or size is None:
        what = "its lazy layers take their sizes from the input, which is not known"
        raise NetworkError(what, where=f"network {settings.network}", right="give input_size and channels")
    _check_input((channels, *size), settings, given)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _respond(module.eval(), settings.network, (channels, *size))


def _load_weights(module: nn.Module, settings: NetworkSettings) -> None:
    name, weights = settings.network, settings.weights
    if weights is None:
        right = 'give --weights FILE ("random" samples the untrained network)'
        raise NetworkError("no weights are given", where=f"network {name}", right=right)
    if weights == "random":
        return
    if weights == "DEFAULT":
        where = f"weights of {name}"
        fit_weights(module, state_dict_of(download_weights(name), where), where=where)
    else:
        fit_weights(module, read_tensors(Path(weights)), where=f"weights {weights}")


def _with_input(
    module: nn.Module,
    settings: NetworkSettings,
    stored: _Description | None,
    listed: tuple[str, ...] | None,
    given: NetworkSettings,
) -> Network:
    name = settings.network
    default = defaults_of(name, module) if stored is None else _stored_defaults(stored)
    channels = settings.channels or default.channels
    size = settings.sides or default.size
    if channels is None or size is None:
        lacking = "input_size" if size is None else "channels"
        right = f"give {lacking} (--{lacking.replace('_', '-')})"
        raise NetworkError(f"{lacking} is not known", where=f"network {name}", right=right)
    _check_input((channels, *size), settings, given)
    # Statistics of three colours say nothing of an input with another number of channels.
    same = channels == default.channels
    network = wrap_network(
        module,
        name=name,
        input_shape=(channels, *size),
        mean=settings.mean or (default.mean if same else None),
        std=settings.std or (default.std if same else None),
    )
    classes = _count_classes(network)
    names = default.class_names if len(default.class_names) == classes else ()
    if settings.class_names is not None:
        names = _read_names(settings.class_names, classes)
    elif listed is not None:
        _check_count(listed, classes, f"class_names beside {settings.weights}", f"list {classes} names")
        names = listed
    _check_text(names, f"class names of network {name}")
    return replace(network, class_names=names)


def _stored_defaults(stored: _Description) -> Defaults:
    channels, height, width = stored.input_shape
    return Defaults((height, width), channels, stored.mean, stored.std, stored.class_names)


def _check_input(shape: tuple[int, int, int], settings: NetworkSettings, given: NetworkSettings) -> None:
    if min(shape) < 1:
        what = f"input shape {shape}"
        raise NetworkError(what, where=f"network {settings.network}", right="give numbers above 0")
    if math.prod(shape) > LARGEST_INPUT:
        check_size(settings, given, shape)


def _respond(module: nn.Module, name: str, shape: tuple[int, int, int]) -> object:
    """Return what ``module`` puts out for one image of zeros."""
    like = first_real(module)
    try:
        with torch.no_grad():
            return module(torch.zeros(1, *shape, dtype=like.dtype, device=like.device))
    except Exception as error:  # the forward may be the user's code
        size = "x".join(map(str, shape))
        what = f"does not take an input of {size} ({type(error).__name__}: {error})"
        raise NetworkError(what, where=f"network {name}", right="give its input_size and channels") from None


def _count_classes(network: Network) -> int:
    where = f"network {network.name}"
    output = _respond(network.module, network.name, network.input_shape)
    if not isinstance(output, torch.Tensor) or output.ndim not in (2, 4):
        got = f"shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        right = "give a network with an output of (N, classes) or (N, classes, H, W)"
        raise NetworkError(f"its output is of {got}", where=where, right=right)
    return output.shape[1]


def _read_names(path: str, classes: int) -> tuple[str, ...]:
    where = f"class_names {path}"
    right = f"give a text file with {classes} lines, one name a line"
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        what = f"cannot be read ({type(error).__name__})"
        raise NetworkError(what, where=where, right=right) from None
    names = tuple(line.strip() for line in lines if line.strip())
    _check_count(names, classes, where, right)
    return names


def _check_text(names: tuple[str, ...], where: str) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:  # JSON can write half a character, and nothing can store it
            raise NetworkError(f"{name!r} holds half a character", where=where, right="give names in UTF-8") from None


def _check_count(names: tuple[str, ...], classes: int, where: str, right: str) -> None:
    if len(names) != classes:
        raise NetworkError(f"holds {len(names)} names for {classes} outputs", where=where, right=right)
