"""A user's own networks: code that is imported by the name that the user gave, and found in the working directory.

That folder may have been downloaded, with a ``ray.py`` in it. So Python looks there only while a user's code is
imported, and only after everything that is installed.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from raygen.errors import NetworkError, closest


@contextmanager
def searched_last(*folders: str) -> Iterator[None]:
    """Let Python look for modules in ``folders``, after everything else, within the block."""
    search = Search(folders)
    try:
        yield
    finally:
        search.end()


class Search:
    """Python looks for modules in ``folders``, after everything else, until ``end``.

    A pickle of it begins the search where it is read: what stands behind it in the pickle may be a user's class.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self.folders = tuple(folders)
        self._added = [folder for folder in dict.fromkeys(self.folders) if folder not in sys.path]
        sys.path.extend(self._added)
        importlib.invalidate_caches()  # a folder may hold what it did not hold a moment ago

    def end(self) -> None:
        """Look there no longer."""
        for folder in self._added:
            with contextlib.suppress(ValueError):  # the user's code may change the path as well
                sys.path.remove(folder)
        self._added = []

    def __reduce__(self) -> tuple[type[Search], tuple[tuple[str, ...]]]:
        return Search, (self.folders,)


def folders_of(module: nn.Module) -> tuple[str, ...]:
    """Return the folders in which the packages of the module's classes lie; an own class of a script has none."""
    packages = {type(layer).__module__.partition(".")[0] for layer in module.modules()}
    files = (getattr(sys.modules.get(name), "__file__", None) for name in packages - {"__main__", "raygen", "torch"})
    paths = [Path(file) for file in files if file]
    return tuple(sorted({str(path.parents[1 if path.stem == "__init__" else 0]) for path in paths}))


def import_factory(name: str) -> Callable[..., Any]:
    """Return what ``name``, "package.module:factory", names; the caller has begun the search.

    Raises:
        NetworkError: if there is no such module, or no such function or class in it.
    """
    where = f"network {name}"
    module_name, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code
        what = f"cannot import {module_name!r} ({type(error).__name__}: {error})"
        raise NetworkError(what, where=where, right="give package.module:factory of an importable module") from None
    factory = getattr(found, attribute, None)
    if factory is None:
        right = closest(attribute, [key for key, value in vars(found).items() if callable(value)])
        raise NetworkError(f"{module_name} has no {attribute!r}", where=where, right=right)
    if not callable(factory):
        raise NetworkError(f"{attribute!r} is not callable", where=where, right="name a function or class")
    called: Callable[..., Any] = factory
    return called
