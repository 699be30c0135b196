"""The images that an optimiser makes of a node: the baseline of ``raygen bench legibility``, and of nothing else.

The recipe is the one that Lucent publishes as its defaults (github.com/greentfrapp/lucent, after Olah, Mordvintsev and
Schubert, "Feature Visualization", Distill 2017), written down anew: Fourier coefficients of deviation 0.01, scaled by
one over their frequency; decorrelated colours; a sigmoid; Adam at rate 0.05 on the score; and before each step the
image padded with grey, moved by up to 4 pixels, scaled by 0.9 to 1.1, turned by up to 10 degrees, moved by up to 2.

Three things differ. Lucent resamples an image once for each of these changes and shows the network the larger, padded
result; here one resampling makes them all and the network sees its own size, so that any layer can be scored. Images of
less than Lucent's 128 pixels, such as those of a receptive field, are moved by the same share of their side. And each
image of a batch has changes of its own, as if it were alone.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raygen.networks import Network, NodeScores

_DEVIATION = 0.01
_RATE = 0.05
_MAGIC = 4.0
"""Lucent divides by it, so that the coefficients of both its parametrisations have one scale."""

_JITTERS = (8, 4)
_SIDE = 128
"""Widths of the ranges of the two moves, in pixels of an image of this side, Lucent's own."""

_SCALES = tuple(1 + (step - 5) / 50 for step in range(11))
_ANGLES = (*range(-10, 11), 0, 0, 0, 0, 0)
"""In degrees; not to turn at all is likelier than each turn."""

_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""Square root of the covariance of natural images' colours, a row each for red, green and blue."""


@dataclass(frozen=True)
class Optimised:
    """What the optimiser made.

    Attributes:
        images: (N, C, H, W), pixels from 0 to 1, on the scores' device.
        gradients: of each image.
        seconds: it took.
    """

    images: Tensor
    gradients: int
    seconds: float


class FourierImages:
    """Images as Fourier coefficients, and the map to pixels.

    Args:
        shape: (N, C, H, W); colours are decorrelated where C is 3.
        generator: of the start.
        device: of the coefficients.
    """

    def __init__(self, shape: tuple[int, int, int, int], generator: torch.Generator, device: torch.device) -> None:
        count, channels, height, width = shape
        self._size = (height, width)
        down, across = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
        frequencies = (down.square() + across.square()).sqrt().clamp(min=1 / max(height, width))
        self._scale = (1 / frequencies)[:, :, None].to(device)
        colours = torch.tensor(_COLOURS)
        self._colours = (colours / colours.norm(dim=0).max()).to(device) if channels == 3 else None
        start = torch.randn((count, channels, height, width // 2 + 1, 2), generator=generator)
        self.coefficients = (_DEVIATION * start).to(device).requires_grad_()

    def pixels(self) -> Tensor:
        """Return the images (N, C, H, W), between 0 and 1, differentiable in the coefficients."""
        spectrum = torch.view_as_complex(self._scale * self.coefficients)
        images = torch.fft.irfft2(spectrum, s=self._size, norm="ortho") / _MAGIC
        if self._colours is not None:
            images = torch.einsum("rc,nchw->nrhw", self._colours, images)
        pixels: Tensor = images.sigmoid()
        return pixels


def optimise(
    scores: NodeScores, network: Network, *, gradients: int, seed: int, seconds: float = math.inf
) -> Optimised:
    """Return one image for each row of ``scores``, after so many gradients of each, or as many as fit in ``seconds``.

    Args:
        scores: of nodes; they decide the device.
        network: theirs: how its inputs are made of pixels.
        gradients: of each image at most; at least one is made.
        seed: of the start and of all changes.
        seconds: the first gradient after so many is the last one.
    """
    device, generator = scores.channels.device, torch.Generator().manual_seed(seed)
    channels, height, width = scores.input_shape
    images = FourierImages((len(scores.channels), channels, height, width), generator, device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (network.mean, network.std))
    adam = torch.optim.Adam([images.coefficients], lr=_RATE)
    start, made = time.perf_counter(), 0
    while made < gradients and (not made or time.perf_counter() - start < seconds):
        adam.zero_grad()
        loss = -scores((changed(images.pixels(), generator) - mean) / std).sum()
        loss.backward()
        adam.step()
        made += 1
    with torch.no_grad():
        return Optimised(images.pixels(), made, time.perf_counter() - start)


def changed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (N, C, H, W) moved, scaled and turned by chance, each by its own amounts, with grey around them."""
    count, _, height, width = images.shape
    draws = torch.rand((6, count), generator=generator, dtype=torch.float64)
    angle = torch.deg2rad(_choice(_ANGLES, draws[0]))
    scale = _choice(_SCALES, draws[1])
    share = min(1.0, min(height, width) / _SIDE)
    moves = sum((share * jitter * (draws[2 + 2 * at : 4 + 2 * at] - 0.5) for at, jitter in enumerate(_JITTERS)),
                torch.zeros(2, count, dtype=torch.float64))  # fmt: skip
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    # In halves of the sides, as grid_sample wants it.
    rows = [
        torch.stack([cosine, -sine * height / width, 2 * moves[0] / width], 1),
        torch.stack([sine * width / height, cosine, 2 * moves[1] / height], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1).to(images), list(images.shape), align_corners=False)
    # The sampling pads with zeros.
    return functional.grid_sample(images - 0.5, grid, mode="bilinear", align_corners=False) + 0.5


def _choice(values: tuple[float, ...], draws: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[(draws * len(values)).long()]
