"""The paper's recipes for training, as files of the settings of ``raygen pretrain``."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from raygen.errors import SettingsError, closest

RECIPES = ("lenet-mnist", "alexnet-imagenet", "zeiler-fergus-imagenet")
"""Their names; ``NAME.yaml`` lies beside this file."""


def read_recipe(name: str) -> dict[str, Any]:
    """Return the settings of a recipe by name.

    Raises:
        SettingsError: there is no such recipe.
    """
    if name not in RECIPES:
        raise SettingsError(f"unknown recipe {name!r}", where="recipe", right=closest(name, RECIPES))
    text = (files(__package__) / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))
