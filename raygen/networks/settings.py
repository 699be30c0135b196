"""Which network, which weights, and what its input means: from settings, and from a small file beside the weights.

Nothing here needs torch, so a command line can show and check these settings before it is imported.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from raygen.documents import parse_yaml, read_text
from raygen.errors import NetworkError, SettingsError
from raygen.settings import Group, Settings
from raygen.text import for_shell

Precision = Literal["float32", "bfloat16", "float64"]
"""In which the layers of a network are computed, see :meth:`NodeScores.with_precision`."""

WEIGHT_FILES = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors")
"""How names of weight files mostly end; others are known by how they begin."""

_SUFFIXES = (".yaml", ".yml", ".json")
_RIGHT = "give lines of the form name: value, such as network: alexnet"


def _read_size(value: object) -> object:
    whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if value is None or whole:
        return value
    found = re.fullmatch(r"([1-9][0-9]{0,8})(?:x([1-9][0-9]{0,8}))?", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("give a side or HEIGHTxWIDTH, such as 224 or 32x64")
    return value if found[2] not in (None, found[1]) else int(found[1])


InputSize = Annotated[int | str | None, BeforeValidator(_read_size)]
"""A side of a square image, or "HEIGHTxWIDTH"."""


class NetworkSettings(Settings):
    """Which network, which weights, and what its input means.

    What is not given is taken from a file beside the weights, from the checkpoint or from torchvision.
    """

    group: ClassVar[Group] = Group.NETWORK

    network: Annotated[str, Group.MAIN] = Field(
        "lenet",
        description='lenet, caffe_alexnet, caffenet, zeiler_fergus, a torchvision name, or your own "module:factory"',
    )
    weights: Annotated[str | None, Group.MAIN] = Field(
        None, description='file by torch.save or in safetensors, "DEFAULT" for torchvision\'s download, or "random"'
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the network's factory")
    input_size: InputSize = Field(None, description="side of the square input, or HEIGHTxWIDTH, in pixels")
    channels: PositiveInt | None = Field(None, description="number of input channels")
    mean: tuple[float, ...] | None = Field(None, description="mean of each input channel, for pixels from 0 to 1")
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="divisor of each input channel, for pixels from 0 to 1"
    )
    class_names: str | None = Field(None, description="text file with a class name on each line")

    @property
    def sides(self) -> tuple[int, int] | None:
        """(height, width) of the input; None where no size is given."""
        if self.input_size is None:
            return None
        height, _, width = str(self.input_size).partition("x")
        return int(height), int(width or height)


class Metadata(Settings):
    """What a file beside the weights may say, all of it optional; the meaning is that of :class:`NetworkSettings`."""

    network: str | None = None
    arguments: dict[str, Any] | None = None
    input_size: InputSize = None
    channels: PositiveInt | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    class_names: tuple[str, ...] | str | None = Field(None, description="names, or a text file with one a line")


def find_metadata(weights: str | None) -> Path | None:
    """Return the file that goes with ``weights``: of ``net.pt`` net.pt.yaml, net.yaml, or with .yml or .json."""
    if weights in (None, "random", "DEFAULT"):
        return None
    path = Path(weights or "")
    if not path.name or path.suffix in _SUFFIXES:  # it would be its own
        return None
    candidates = [path.with_name(name + suffix) for name in (path.name, path.stem) for suffix in _SUFFIXES]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read_metadata(path: Path) -> Metadata:
    """Read a file of metadata.

    Raises:
        NetworkError: if it cannot be read, or says something else.
    """
    where = f"file {path} beside the weights"
    try:
        values = parse_yaml(read_text(path))
    except (OSError, ValueError) as error:
        what = f"cannot be read ({type(error).__name__})"
        raise NetworkError(what, where=where, right=_RIGHT) from None
    if not isinstance(values, dict):
        raise NetworkError(f"holds a {type(values).__name__}", where=where, right=_RIGHT)
    try:
        return Metadata.parse(values, where=where)
    except SettingsError as error:
        raise NetworkError(error.what, where=error.where, right=error.right) from None


def with_metadata(settings: NetworkSettings) -> tuple[NetworkSettings, tuple[str, ...] | None]:
    """Return ``settings`` with what the file beside the weights says, where they say nothing themselves.

    Returns:
        the settings, and the class names where the file lists them and the settings name no file.

    Raises:
        NetworkError: see :func:`read_metadata`; also if the file names another one elsewhere.
    """
    path = find_metadata(settings.weights)
    if path is None:
        return settings, None
    found = read_metadata(path).model_dump(exclude_none=True)
    names = found.pop("class_names", None)
    given = settings.model_fields_set
    if isinstance(names, str):
        if "class_names" not in given and (Path(names).is_absolute() or ".." in Path(names).parts):
            # Its lines would be shown, and may be what the user shows to nobody.
            what = f"asks for the class names in {names}, which does not lie beside it"
            right = f"give --class-names {for_shell(str(path.parent / names))} if you trust it"
            raise NetworkError(what, where=f"file {path} beside the weights", right=right)
        found["class_names"] = str(path.parent / names)
        names = None
    update = {name: value for name, value in found.items() if name not in given}
    return settings.model_copy(update=update), None if "class_names" in given else names
