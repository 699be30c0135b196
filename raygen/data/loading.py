"""From the name of a data set to its training and test images."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from raygen.data.digits import digits
from raygen.data.folder import folder_set
from raygen.data.images import ImageSet
from raygen.data.vision import VISION_SETS, vision_set
from raygen.errors import DataError, closest
from raygen.settings import Settings

DATA_SETS = ("digits", *VISION_SETS, "folder")
"""What ``DataSettings.data`` may name."""


class DataSettings(Settings):
    """Which images to train on."""

    data: str = Field("digits", description=f"data set: {', '.join(DATA_SETS)}")
    data_root: str | None = Field(None, description="local folder of the data set; digits need none")
    download: bool = Field(False, description="fetch the data set into its folder where it is absent")
    limit: int | None = Field(None, ge=1, description="use only the first so many images of each split")


def load_data(settings: DataSettings, shape: tuple[int, int, int]) -> tuple[ImageSet, ImageSet]:
    """Read the training and the test images that ``settings`` ask for.

    Args:
        settings: the data set and where it lies.
        shape: (channels, height, width) that the network takes. Pictures of a folder are brought to it; images of the
            other sets must have it.

    Raises:
        DataError: the data set is unknown, absent or damaged, or its images do not fit.
    """
    if settings.data not in DATA_SETS:
        right = closest(settings.data, DATA_SETS)
        raise DataError(f"unknown data set {settings.data!r}", where="data", right=right)
    if settings.data == "digits":
        pair = digits()
    elif settings.data == "folder":
        pair = folder_set(_root(settings), shape, limit=settings.limit)
    else:
        pair = vision_set(settings.data, _root(settings), download=settings.download)
    for images in pair:
        _check_shape(images, shape)
    train, test = (images.first(settings.limit) for images in pair)
    return train, test


def _root(settings: DataSettings) -> Path:
    if settings.data_root is None:
        raise DataError(f"{settings.data} needs a folder", where="data_root", right="give the folder that holds it")
    return Path(settings.data_root)


def _check_shape(images: ImageSet, shape: tuple[int, int, int]) -> None:
    if images.shape != shape:
        have, want = ("x".join(map(str, sizes)) for sizes in (images.shape, shape))
        right = f"choose a network for {have}, or data of {want}"
        raise DataError(f"the images are {have}, the network takes {want}", where=f"data {images.name}", right=right)
