"""What is exactly torch's own layer, so that a shortcut may be taken for it; and copies of modules of any kind."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils.weight_norm import WeightNorm

from raygen.errors import NetworkError, RaygenError

Module = TypeVar("Module", bound=nn.Module)

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain(module: nn.Module | None, *kinds: type[nn.Module]) -> bool:
    """Say whether ``module`` computes what one of ``kinds`` does, and nothing else.

    Every shortcut asks this. A subclass may have another forward. A hook, a parametrization, the older weight
    normalisation, or a method that is replaced on the instance, may change what the module computes.

    Args:
        module: a layer; None is not plain.
        kinds: exact types.
    """
    if module is None or type(module) not in kinds or has_hooks(module):
        return False
    own = type(module)
    replaced = (name for name in vars(module) if callable(getattr(own, name, None)))
    return not any(replaced) and _has_own_weights(module)


def has_hooks(module: nn.Module) -> bool:
    """Say whether a call of ``module`` itself runs hooks, its own or global ones, forward or backward."""
    return any(getattr(module, name) for name in _HOOKS) or any(getattr(torch_module, f"_global{n}") for n in _HOOKS)


def first_real(module: nn.Module) -> Tensor:
    """Return the first parameter of ``module`` that holds real numbers: of its device and precision; else a zero."""
    return next((found for found in module.parameters() if found.is_floating_point()), torch.zeros(()))


@contextmanager
def forward_of(where: str, right: str = "give a network that takes an image in evaluation mode") -> Iterator[None]:
    """Let errors of the user's forward be one line that says what it said.

    Args:
        where: of which network or layer.
        right: what would be right.
    """
    try:
        yield
    except RaygenError:
        raise
    except Exception as error:
        what = f"its forward fails ({type(error).__name__}: {error})"
        raise NetworkError(what, where=where, right=right) from None


def copy_module(module: Module) -> Module:
    """Return a deep copy of ``module``, which may hold computed tensors, such as a normalised weight or a feature.

    ``copy.deepcopy`` refuses these; of the copy they are constants, until its forward computes them again.
    """
    memo: dict[int, object] = {}
    for part in module.modules():
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                with torch.no_grad():  # the same weight, without its history
                    hook(part, None)
        for value in vars(part).values():
            for tensor in _tensors(value):
                if not tensor.is_leaf:
                    memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(module, memo)


def _has_own_weights(module: nn.Module) -> bool:
    named = ("weight", "bias")
    return all(name in module._parameters for name in named if hasattr(module, name))


def _tensors(value: object) -> list[Tensor]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
    return [found for found in values if isinstance(found, Tensor)]
