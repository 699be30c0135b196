"""Training pictures changed at random, by numbers that seed, epoch and the picture's index alone decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raygen.data.decoding import Box, Corrupt, Data, Picture, Pixels, decode, middle
from raygen.data.settings import Augment

PADDING = 4
"""Pixels of black around an image before "crop-flip" cuts it out anew, as is usual for CIFAR (He et al. 2015)."""

_SCALE = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
"""Part of the area, and width over height, of "resized-crop" (Szegedy et al. 2014, as torchvision has it)."""

_ATTEMPTS = 10


@dataclass(frozen=True)
class Preparation:
    """What makes a network's input of a picture's file.

    Attributes:
        shape: (C, H, W) of the result.
        augment: how it is changed.
        seed: of the run, 0 or more.
        number: of the epoch.
    """

    shape: tuple[int, int, int]
    augment: Augment = "none"
    seed: int = 0
    number: int = 0

    def picture(self, index: int, data: Data) -> Picture:
        """Return the pixels of the picture with this index in its data set, or why it cannot be read."""
        _, height, width = self.shape
        fit = middle(width, height)
        if self.augment == "none":
            return decode(data, self.shape, fit)
        draws = uniforms(self.seed, self.number, index)[0]
        if self.augment == "resized-crop":
            choose = _random_part(crop_uniforms(self.seed, self.number, index), width, height)
            return _flipped(decode(data, self.shape, choose), draws)
        found = decode(data, self.shape, fit)
        return _flipped(_moved(found, draws) if self.augment == "crop-flip" else found, draws)


def uniforms(seed: int, number: int, first: int, images: int = 1) -> NDArray[np.float64]:
    """Return four random numbers from [0, 1) for each of neighbouring images: (images, 4).

    An image's numbers are the same whichever others are asked for beside it, and whichever process asks: they are the
    block of Philox (Salmon et al. 2011), a generator that counts, whose number is the image's index.

    Args:
        seed: of the run.
        number: of the epoch.
        first: index of the first image in its data set.
        images: how many.
    """
    return _philox(seed, number, (first, 0, 0, 0)).random((images, 4))


def crop_uniforms(seed: int, number: int, index: int) -> NDArray[np.float64]:
    """Return further random numbers of an image, for the attempts of "resized-crop": (10, 4); see ``uniforms``."""
    return _philox(seed, number, (0, index, 1, 0)).random((_ATTEMPTS, 4))


def _philox(seed: int, number: int, counter: tuple[int, int, int, int]) -> np.random.Generator:
    key = np.random.SeedSequence((seed, number)).generate_state(2, np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array(counter, dtype=np.uint64)))


def augmented(images: Tensor, draws: NDArray[np.float64], augment: Augment) -> Tensor:
    """Return images in memory as ``Preparation`` returns those of files: (m, C, H, W), moved and mirrored.

    Args:
        images: (m, C, H, W).
        draws: (m, 4), the images' ``uniforms``.
        augment: "flip" or "crop-flip".
    """
    _, _, height, width = images.shape
    flip, top, left = (torch.from_numpy(numbers).to(images.device) for numbers in (draws[:, 0] < 0.5, *_shift(draws)))
    across = torch.arange(width, device=images.device)
    columns = torch.where(flip[:, None], across.flip(0), across)  # (m, W)
    rows = torch.arange(height, device=images.device).expand(len(images), -1)
    if augment == "crop-flip":
        images = torch.nn.functional.pad(images, (PADDING,) * 4)
        rows, columns = rows + top[:, None], columns + left[:, None]
    each = torch.arange(len(images), device=images.device)[:, None, None]
    return images[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _shift(draws: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    moved = (draws[..., 1:3] * (2 * PADDING + 1)).astype(np.int64)
    return moved[..., 0], moved[..., 1]


def _moved(found: Picture, draws: NDArray[np.float64]) -> Picture:
    if isinstance(found, Corrupt):
        return found
    _, height, width = found.shape
    top, left = _shift(draws)
    return np.pad(found, ((0, 0), (PADDING,) * 2, (PADDING,) * 2))[:, top : top + height, left : left + width]


def _flipped(found: Picture, draws: NDArray[np.float64]) -> Picture:
    if isinstance(found, Corrupt) or draws[0] >= 0.5:
        return found
    mirrored: Pixels = found[:, :, ::-1]
    return mirrored


def _random_part(draws: NDArray[np.float64], width: int, height: int) -> Callable[[int, int], Box]:
    """Return a choice for ``decode``: a part of random area, proportions and position; else, if none fits, the middle.

    Args:
        draws: (10, 4), the picture's ``crop_uniforms``.
        width: of the result, whose proportions the part has but for ``_RATIO``.
        height: of the result.
    """

    def choose(have_width: int, have_height: int) -> Box:
        low, high = (math.log(ratio * width / height) for ratio in _RATIO)
        for area, ratio, across, down in draws:
            size = have_width * have_height * (_SCALE[0] + area * (_SCALE[1] - _SCALE[0]))
            shape = math.exp(low + ratio * (high - low))
            part_width, part_height = round(math.sqrt(size * shape)), round(math.sqrt(size / shape))
            if 0 < part_width <= have_width and 0 < part_height <= have_height:
                left = int(across * (have_width - part_width + 1))
                top = int(down * (have_height - part_height + 1))
                return left, top, left + part_width, top + part_height
        return middle(width, height)(have_width, have_height)

    return choose
