"""Which images a user may ask for, by name; imported without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raygen.settings import Settings

Augment = Literal["none", "flip", "crop-flip", "resized-crop"]

VISION_SETS = ("mnist", "fashion-mnist", "cifar10")
"""Data sets that torchvision reads."""

SMALL_SETS = ("digits", *VISION_SETS)
"""Data sets that are held in memory, of images of one shape."""

PICTURE_SETS = ("folder", "parquet")
"""Data sets of encoded pictures of any size, which may stream."""

DATA_SETS = (*SMALL_SETS, *PICTURE_SETS)
"""What ``DataSettings.data`` may name."""

MEMORY_LIMIT = 2 * 2**30
"""Bytes of pixels, of both splits, that are held in memory."""


class DataSettings(Settings):
    """Which images to train on."""

    data: str = Field("digits", description=f"data set: {', '.join(DATA_SETS)}")
    data_root: str | None = Field(
        None, description="folder of the data set, of folder and parquet also a URI; digits need none"
    )
    download: bool = Field(False, description="fetch the data set into its folder where it is absent")
    limit: int | None = Field(None, ge=1, description="use only the first so many images of each split")
    image_column: str | None = Field(None, description="column of Parquet files that holds the pictures, else found")
    label_column: str | None = Field(None, description="column of Parquet files that holds the labels, else found")
    augment: Augment = Field("none", description="random change of training images; crop-flip moves by 4 pixels")
    shuffle: bool = Field(True, description="read training images in a new order each epoch, else as they are stored")
    stream: bool | None = Field(
        None, description=f"read pictures while training, else only above {MEMORY_LIMIT / 2**30:g} GiB of pixels"
    )
    corrupt_limit: int = Field(10, ge=0, description="unreadable pictures that a pass of a worker skips")
