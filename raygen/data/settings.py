"""Which images a user may ask for, by name; imported without torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raygen.settings import Group, Settings

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

    group: ClassVar[Group] = Group.DATA

    data: Annotated[str, Group.MAIN] = Field(
        "digits", description=f"images to train on, or to fit a reference to: {', '.join(DATA_SETS)}"
    )
    data_root: Annotated[str | None, Group.MAIN] = Field(
        None, description="folder of the data set; of folder and parquet also a URI; digits need none"
    )
    download: bool = Field(False, description="download the data set into its folder if it is not there")
    limit: int | None = Field(None, ge=1, description="number of images to use of each split, the first ones")
    image_column: str | None = Field(None, description="Parquet column of the pictures; found if not set")
    label_column: str | None = Field(None, description="Parquet column of the labels; found if not set")
    augment: Augment = Field("none", description="random change of training images; crop-flip moves by 4 pixels")
    shuffle: bool = Field(True, description="read training images in a new order each epoch, not in the stored order")
    stream: bool | None = Field(
        None,
        description=f"read pictures while training; if not set, only above {MEMORY_LIMIT / 2**30:g} GiB of pixels",
    )
    corrupt_limit: int = Field(
        10, ge=0, description="corrupt pictures that a worker may skip in an epoch; more are an error"
    )
