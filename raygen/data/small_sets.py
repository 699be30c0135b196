"""Small data sets of images of one shape: scikit-learn's digits, and MNIST, FashionMNIST and CIFAR10 by torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision import datasets

from raygen.data.images import ImageSet, stratified_split
from raygen.errors import DataError
from raygen.storage import persist

_DIGITS_SIZE = 28
_DIGITS_SPLIT_SEED = 0

_KINDS: Mapping[str, tuple[Any, str]] = MappingProxyType(
    {
        "mnist": (datasets.MNIST, "MNIST/raw/ with {train,t10k}-{images-idx3,labels-idx1}-ubyte"),
        "fashion-mnist": (datasets.FashionMNIST, "FashionMNIST/raw/ with {train,t10k}-{images-idx3,labels-idx1}-ubyte"),
        "cifar10": (datasets.CIFAR10, "cifar-10-batches-py/ with data_batch_1 to data_batch_5 and test_batch"),
    }
)


def digits() -> tuple[ImageSet, ImageSet]:
    """Return 1,438 training and 359 test images of 1x28x28, always the same ones; needs no network and no folder.

    They are the 1,797 handwritten digits that scikit-learn brings (UCI "Optical Recognition of Handwritten Digits"):
    32x32 scans whose ink was counted in blocks of 4x4, 8x8 numbers from 0 to 16. Here they get the shape of MNIST's.

    Raises:
        DataError: scikit-learn's file of them cannot be read.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415  (a second to import, for one data set)

    try:
        bunch = persist(load_digits)
    except OSError as error:
        raise DataError(f"cannot be read ({error})", where="data digits", right="install scikit-learn again") from error
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    whole = ImageSet("digits", _enlarge(torch.from_numpy(bunch.images)), labels, tuple("0123456789"))
    train, test = stratified_split(labels, test_part=0.2, seed=_DIGITS_SPLIT_SEED)
    return whole.subset(train), whole.subset(test)


def _enlarge(blocks: Tensor) -> Tensor:
    """Bring block counts (n, 8, 8), 0..16, to pixels (n, 1, 28, 28) uint8."""
    # The scans fill their 8x8 to the edge. A margin of one block keeps strokes whole, and gives digits of 22 pixels in
    # 28 (MNIST: 20 in 28). Bicubic interpolation overshoots at edges, which is what makes strokes as sharp as MNIST's.
    margin = functional.pad(blocks.float().unsqueeze(1) * (255 / 16), (1, 1, 1, 1))
    smooth = functional.interpolate(margin, size=(_DIGITS_SIZE, _DIGITS_SIZE), mode="bicubic", align_corners=False)
    return smooth.round().clamp(0, 255).to(torch.uint8)


def vision_set(name: str, root: Path, *, download: bool) -> tuple[ImageSet, ImageSet]:
    """Read the training and the test images of one of ``VISION_SETS``.

    Args:
        name: one of ``VISION_SETS``.
        root: the folder that torchvision keeps its data sets in.
        download: fetch the files into ``root`` where they are absent.

    Raises:
        DataError: files are absent, cannot be fetched, or are not what they should be; names root and expectation.
    """
    kind, expected = _KINDS[name]
    try:
        # A disk that fails for a moment is tried again.
        train, test = (
            persist(lambda part=part: kind(str(root), train=part, download=download))  # type: ignore[misc]
            for part in (True, False)
        )
        return image_set(name, train), image_set(name, test)
    # torchvision has no exceptions of its own: absent files come as RuntimeError, damaged ones as whatever its readers
    # stumble over (AssertionError, TypeError, ValueError), and so does a download without a network.
    except Exception as error:
        reason = "cannot be fetched" if download else "is not there or damaged"
        hint = "" if download else ", or ask for the download"
        said = str(error).replace(". You can use download=True to download it", "") or type(error).__name__
        right = f"the folder is to hold {expected}{hint}"
        raise DataError(f"{name} {reason} ({said})", where=f"data_root {root}", right=right) from error


def image_set(name: str, loaded: Any) -> ImageSet:
    """Take over a torchvision data set: ``data`` (n, H, W) or (n, H, W, C) uint8, ``targets``, ``classes``."""
    pixels = torch.as_tensor(np.asarray(loaded.data))
    images = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return ImageSet(name, images, torch.as_tensor(loaded.targets, dtype=torch.int64), tuple(loaded.classes))
