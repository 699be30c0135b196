"""MNIST, FashionMNIST and CIFAR10, read through torchvision from a local folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torchvision import datasets

from raygen.data.images import ImageSet
from raygen.errors import DataError

_KINDS: Mapping[str, tuple[Any, str]] = MappingProxyType(
    {
        "mnist": (datasets.MNIST, "MNIST/raw/ with {train,t10k}-{images-idx3,labels-idx1}-ubyte"),
        "fashion-mnist": (datasets.FashionMNIST, "FashionMNIST/raw/ with {train,t10k}-{images-idx3,labels-idx1}-ubyte"),
        "cifar10": (datasets.CIFAR10, "cifar-10-batches-py/ with data_batch_1 to data_batch_5 and test_batch"),
    }
)


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
        train, test = (kind(str(root), train=part, download=download) for part in (True, False))
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
