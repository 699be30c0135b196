"""What can be said of network and images before any worker starts."""

from __future__ import annotations

import logging

import torch

from raygen.data import ImageSource
from raygen.errors import DataError
from raygen.networks import Network

log = logging.getLogger(__name__)


def check_images(network: Network, train_set: ImageSource, test_set: ImageSource) -> None:
    """Check that a network can be trained on images; a class without training images is warned of.

    Args:
        network: on the CPU.
        train_set: the images to learn.
        test_set: of the same classes.

    Raises:
        DataError: there are no images, a label is out of range, or the network gives another number of scores.
    """
    classes = len(train_set.class_names)
    if test_set.class_names != train_set.class_names:
        raise DataError("the test images have other classes than the training images", where=f"data {test_set.name}",
                        right="give both the same classes")  # fmt: skip
    for images, kind in ((train_set, "training"), (test_set, "test")):
        _check_labels(images, kind, classes)
    with torch.no_grad():
        scores = network.module(torch.zeros(1, *network.input_shape))
    if scores.shape != (1, classes):
        what = f"the network gives {_sizes(scores)} scores, the images have {classes} classes"
        raise DataError(what, where=f"data {train_set.name}", right=f"choose a network with {classes} classes")
    counts = torch.bincount(train_set.labels[train_set.labels >= 0], minlength=classes)
    empty = [name for name, count in zip(train_set.class_names, counts.tolist(), strict=True) if not count]
    if empty:
        names = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        log.warning("data %s: %d of %d classes have no training image: %s", train_set.name, len(empty), classes, names)


def _check_labels(images: ImageSource, kind: str, classes: int) -> None:
    where = f"data {images.name}"
    if not len(images):
        raise DataError(f"there are no {kind} images", where=where, right="give some")
    wrong = (images.labels < -1) | (images.labels >= classes)
    if wrong.any():
        index = int(wrong.nonzero()[0])
        what = f"label {int(images.labels[index])} of {kind} image {index} is out of range"
        raise DataError(what, where=where, right=f"give labels from 0 to {classes - 1}, or -1 for none")


def _sizes(scores: torch.Tensor) -> str:
    return "x".join(map(str, scores.shape[1:])) or "no"
