"""A folder of pictures, one sub-folder for each class, small enough for memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets import ImageFolder

from raygen.data.images import ImageSet, stratified_split
from raygen.errors import DataError

MEMORY_LIMIT = 2 * 2**30
"""Bytes of pixels that a folder may hold in memory."""

_MODES = {1: "L", 3: "RGB"}
_TEST_NAMES = ("test", "val", "validation")
_SPLIT_SEED = 0


def folder_set(
    root: Path, shape: tuple[int, int, int], *, limit: int | None = None, memory_limit: int = MEMORY_LIMIT
) -> tuple[ImageSet, ImageSet]:
    """Read a folder of pictures as training and test images.

    Args:
        root: holds ``train`` and ``test`` (or ``val``, ``validation``) with a sub-folder for each class; or the
            sub-folders themselves, of which a fifth of each class, always the same, becomes the test set.
        shape: (channels, height, width) of the result; each picture is scaled to cover it, and its middle is cut out.
        limit: use this many pictures of each split at most, in a fixed random order.
        memory_limit: bytes of pixels in all.

    Raises:
        DataError: no such folder, no pictures, an unreadable one, classes that differ, or too many bytes.
    """
    if shape[0] not in _MODES:
        raise DataError(f"pictures cannot have {shape[0]} channels", where=f"data_root {root}", right="take 1 or 3")
    test_root = next((root / name for name in _TEST_NAMES if (root / name).is_dir()), None)
    if (root / "train").is_dir() and test_root is not None:
        folders = _listed(root / "train"), _listed(test_root)
        orders = tuple(_shuffled(len(folder.samples)) for folder in folders)
    else:
        folders = (_listed(root),) * 2
        orders = stratified_split(torch.tensor(folders[0].targets), test_part=0.2, seed=_SPLIT_SEED)
    if folders[0].classes != folders[1].classes:
        odd = sorted(set(folders[0].classes) ^ set(folders[1].classes))
        raise DataError(f"class {odd[0]!r} is in one split only", where=str(root), right="give both the same classes")
    chosen = [order[:limit] for order in orders]
    if not all(len(order) for order in chosen):
        right = "give folders train and test, or two pictures or more of a class"
        raise DataError("no picture is left for testing", where=f"data_root {root}", right=right)
    _check_size(root, sum(len(order) for order in chosen), shape, memory_limit)
    train, test = (_read(root.name, folder, order, shape) for folder, order in zip(folders, chosen, strict=True))
    return train, test


def _listed(root: Path) -> ImageFolder:
    try:
        return ImageFolder(str(root))
    except OSError as error:
        right = "give a folder with one sub-folder of pictures for each class"
        raise DataError(f"no pictures ({error})", where=f"data_root {root}", right=right) from error


def _shuffled(n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(_SPLIT_SEED))


def _check_size(root: Path, n: int, shape: tuple[int, int, int], memory_limit: int) -> None:
    size = n * shape[0] * shape[1] * shape[2]
    if size > memory_limit:
        what = f"{n} pictures of {'x'.join(map(str, shape))} are {size:,} bytes, above {memory_limit:,}"
        raise DataError(what, where=f"data_root {root}", right="give a limit, or a network of smaller images")


def _read(name: str, folder: ImageFolder, order: Tensor, shape: tuple[int, int, int]) -> ImageSet:
    chosen = [folder.samples[int(index)] for index in order]
    images = torch.empty((len(chosen), *shape), dtype=torch.uint8)
    for row, (path, _) in enumerate(chosen):
        images[row] = _picture(Path(path), shape)
    return ImageSet(name, images, torch.tensor([label for _, label in chosen]), tuple(folder.classes))


def _picture(path: Path, shape: tuple[int, int, int]) -> Tensor:
    channels, height, width = shape
    try:
        with Image.open(path) as picture:
            fitted = ImageOps.fit(picture.convert(_MODES[channels]), (width, height), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path), right="replace or remove the picture") from error
    return torch.from_numpy(np.array(fitted)).reshape(height, width, channels).permute(2, 0, 1)
