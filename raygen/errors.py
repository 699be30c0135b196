"""The exceptions that raygen raises on purpose.

::

    RaygenError                     everything below
    +-- InputError                  something the user gave is wrong        (exit status 2)
    |   +-- SettingsError           a value in a configuration or an option
    |   +-- NetworkError            an unknown network, or one that cannot be built
    |   |   +-- WeightsError        a weight file that cannot be read or does not fit
    |   +-- NodeError               a node, layer, channel or position that is not there
    |   +-- ScoreError              a score that is not finite, or a target that does not exist
    |   +-- DataError               an unknown data set, or images that do not fit
    |   +-- StoreError              a run on storage that is another one, torn, or cannot be written
    +-- UnfinishedError             a run ended with parts missing          (exit status 3)

Every message is one line with three parts: *where* it is wrong, *what* is wrong, what would be *right*. It is fit for a
terminal, whatever names of files or classes it is made of, and holds no password of an address.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from raygen.text import for_terminal

_LONGEST = 4000
"""Characters of each part of a message; no path is longer."""


class RaygenError(Exception):
    """Base of every exception raised on purpose; ``exit_status`` is what the command line ends with."""

    exit_status = 1

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


class InputError(RaygenError):
    """Something the user gave is wrong.

    Args:
        what: what is wrong, with the value that was given.
        where: the option, file or setting that holds it.
        right: what would be right; a full phrase such as "give a number above 0".
    """

    exit_status = 2

    def __init__(self, what: str, *, where: str, right: str) -> None:
        self.what, self.where, self.right = (_short(_one_line(part)) for part in (what, where, right))
        super().__init__(f"{self.where}: {self.what}; {self.right}")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries (Ray): rebuild from the parts, as __init__ takes them by keyword.
        return _rebuild, (type(self), self.what, self.where, self.right)


class SettingsError(InputError):
    """A value in a configuration file or a command-line option is wrong."""


class NetworkError(InputError):
    """A network is unknown or cannot be built."""


class WeightsError(NetworkError):
    """A weight file cannot be read, or its tensors do not fit the network."""


class NodeError(InputError):
    """A node, layer, channel or position does not exist in the network."""


class ScoreError(InputError):
    """A score, or its gradient, is not finite, or does not fit its reference.

    Args:
        what, where, right: as in :class:`InputError`.
        row: of the batch that it is about, so that the maker of the batch can name the node.
    """

    def __init__(self, what: str, *, where: str, right: str, row: int | None = None) -> None:
        super().__init__(what, where=where, right=right)
        self.row = row


class DataError(InputError):
    """A data set is unknown, cannot be read, or does not fit the network."""


class StoreError(InputError):
    """A folder on storage holds another run, is torn, or cannot be written."""


class UnfinishedError(RaygenError):
    """A run ended with parts missing; the message names them."""

    exit_status = 3


def closest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return a phrase that names the known names closest to ``name``, or all of them where there are few."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=limit, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    shown = names[:12]
    return "known are " + ", ".join(shown) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _one_line(text: str) -> str:
    return for_terminal(" ".join(text.split()))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _rebuild(kind: type[InputError], what: str, where: str, right: str) -> InputError:
    return kind(what, where=where, right=right)
