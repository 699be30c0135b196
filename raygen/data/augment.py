"""Training pictures changed at random, by numbers that seed, epoch and the picture's index alone decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
_DRAWS = 3 + 4 * _ATTEMPTS
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


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
        draws = uniforms(self.seed, self.number, np.array([index]), _DRAWS)[0]
        if self.augment == "resized-crop":
            return _flipped(decode(data, self.shape, _random_part(draws[3:], width, height)), draws)
        found = decode(data, self.shape, fit)
        return _flipped(_moved(found, draws) if self.augment == "crop-flip" else found, draws)


def uniforms(seed: int, number: int, indices: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return random numbers from [0, 1) for images by their index: (len(indices), count).

    An image's numbers are the same whichever others are asked for beside it, and whichever process asks: SplitMix64
    (Steele, Lea, Flood 2014) at the place that the index says, its start drawn from (seed, number).
    """
    start = np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)
    place: Any = indices.astype(np.uint64)[:, None] * np.uint64(_DRAWS)
    place = place + np.arange(1, count + 1, dtype=np.uint64)
    mixed = start + place * _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    numbers: NDArray[np.float64] = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def augmented(images: Tensor, indices: NDArray[np.int64], augment: Augment, seed: int, number: int) -> Tensor:
    """Return images in memory as ``Preparation`` returns those of files: (m, C, H, W), moved and mirrored.

    Args:
        images: (m, C, H, W).
        indices: (m,) of the images in their data set.
        augment: "flip" or "crop-flip".
        seed: of the run.
        number: of the epoch.
    """
    _, _, height, width = images.shape
    draws = uniforms(seed, number, indices, 3)
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
    """Return a choice for ``decode``: a part of random area, proportions and place; the middle where none fits."""

    def choose(have_width: int, have_height: int) -> Box:
        low, high = (math.log(ratio * width / height) for ratio in _RATIO)
        for area, ratio, across, down in draws.reshape(_ATTEMPTS, 4):
            size = have_width * have_height * (_SCALE[0] + area * (_SCALE[1] - _SCALE[0]))
            shape = math.exp(low + ratio * (high - low))
            part_width, part_height = round(math.sqrt(size * shape)), round(math.sqrt(size / shape))
            if 0 < part_width <= have_width and 0 < part_height <= have_height:
                left = int(across * (have_width - part_width + 1))
                top = int(down * (have_height - part_height + 1))
                return left, top, left + part_width, top + part_height
        return middle(width, height)(have_width, have_height)

    return choose
