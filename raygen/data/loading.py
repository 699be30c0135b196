"""From the name of a data set to its training and test images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from raygen.data.folder import list_folder
from raygen.data.images import AugmentedSet, ImageSet
from raygen.data.listing import Listing
from raygen.data.parquet import list_parquet
from raygen.data.settings import DATA_SETS, MEMORY_LIMIT, PICTURE_SETS, SMALL_SETS, Augment, DataSettings
from raygen.data.small_sets import digits, vision_set
from raygen.data.source import ImageSource
from raygen.data.stream import PictureStream, ThreadReader, bytes_of, in_memory
from raygen.errors import DataError, SettingsError, closest


def load_data(settings: DataSettings, shape: tuple[int, int, int]) -> tuple[ImageSet, ImageSet]:
    """Read the training and the test images that ``settings`` ask for into memory, unchanged.

    Args:
        settings: the data set and where it lies.
        shape: (channels, height, width) that the network takes. Pictures of files are brought to it; images of the
            other sets must have it.

    Raises:
        DataError: the data set is unknown, absent or damaged, too large, or its images do not fit.
    """
    _check_name(settings)
    if settings.data in PICTURE_SETS:
        train, test = in_memory(*_streams(settings, shape, threads=2))
        return train, test
    return _small_set(settings, shape)


def open_data(
    settings: DataSettings, shape: tuple[int, int, int], *, threads: int = 2
) -> tuple[ImageSource, ImageSource]:
    """Return the training and the test images that ``settings`` ask for, in memory or streamed, for training.

    Args:
        settings: the data set, where it lies, and how its training images are changed.
        shape: as in ``load_data``.
        threads: that decode the pictures of a stream.

    Raises:
        DataError: the data set is unknown, absent or damaged, or its images do not fit.
        SettingsError: the data set cannot be streamed, be changed so, or be read as it is stored.
    """
    _check_name(settings)
    if settings.data not in PICTURE_SETS:
        return _open_small(settings, shape)
    if not settings.shuffle:
        raise SettingsError(f"shuffle = False, but {settings.data} is stored class by class", where="shuffle",
                            right=f"leave it out, or take data {', '.join(SMALL_SETS)}")  # fmt: skip
    train, test = _streams(settings, shape, threads=threads)
    if settings.stream is False and settings.augment == "resized-crop":
        raise _needs_stream("stream = False")
    large = bytes_of(train) + bytes_of(test) > MEMORY_LIMIT
    if settings.stream or (settings.stream is None and (large or settings.augment == "resized-crop")):
        return train, test
    loaded, held = in_memory(train, test)
    return _changed(loaded, settings.augment), held


def _open_small(settings: DataSettings, shape: tuple[int, int, int]) -> tuple[ImageSource, ImageSource]:
    if settings.stream:
        raise SettingsError(f"{settings.data} does not stream", where="stream",
                            right=f"leave it out, or take data {' or '.join(PICTURE_SETS)}")  # fmt: skip
    if settings.augment == "resized-crop":
        raise _needs_stream(f"data = {settings.data}")
    train, test = _small_set(settings, shape)
    return _changed(replace(train, shuffled=settings.shuffle), settings.augment), test


def _changed(images: ImageSet, augment: Augment) -> ImageSource:
    return images if augment == "none" else AugmentedSet(images, augment)


def _needs_stream(what: str) -> SettingsError:
    right = f"take data {' or '.join(PICTURE_SETS)} with a stream, or flip or crop-flip"
    return SettingsError(f"augment = resized-crop needs whole pictures, but {what}", where="augment", right=right)


def _check_name(settings: DataSettings) -> None:
    if settings.data not in DATA_SETS:
        right = closest(settings.data, DATA_SETS)
        raise DataError(f"unknown data set {settings.data!r}", where="data", right=right)


def _streams(
    settings: DataSettings, shape: tuple[int, int, int], *, threads: int
) -> tuple[PictureStream, PictureStream]:
    train, test = _listings(settings)
    corrupt_limit, reader = settings.corrupt_limit, ThreadReader(threads)
    return (
        PictureStream(train, shape, augment=settings.augment, corrupt_limit=corrupt_limit, reader=reader),
        PictureStream(test, shape, corrupt_limit=corrupt_limit, reader=reader),
    )


def _listings(settings: DataSettings) -> tuple[Listing, Listing]:
    root, limit = _root(settings), settings.limit
    if settings.data == "folder":
        return list_folder(root, limit=limit)
    return list_parquet(root, limit=limit, image_column=settings.image_column, label_column=settings.label_column)


def _small_set(settings: DataSettings, shape: tuple[int, int, int]) -> tuple[ImageSet, ImageSet]:
    if settings.data == "digits":
        pair = digits()
    else:
        pair = vision_set(settings.data, Path(_root(settings)), download=settings.download)
    for images in pair:
        _check_shape(images, shape)
    train, test = (images.first(settings.limit) for images in pair)
    return train, test


def _root(settings: DataSettings) -> str:
    if settings.data_root is None:
        raise DataError(f"{settings.data} needs a folder", where="data_root", right="give the folder that holds it")
    return settings.data_root


def _check_shape(images: ImageSet, shape: tuple[int, int, int]) -> None:
    if images.shape != shape:
        have, want = ("x".join(map(str, sizes)) for sizes in (images.shape, shape))
        right = f"choose a network for {have}, or data of {want}"
        raise DataError(f"the images are {have}, the network takes {want}", where=f"data {images.name}", right=right)
