"""Draws: what is kept of chains at some of their states, as pictures and numbers."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from raygen.hmc import ON_CPU, ChainState, potential
from raygen.networks import Network, Scores, ViewScores
from raygen.tilting import Reference, WhitenedScore, signal

_TAIL = 0.005
"""Fraction of an image's values left out at either end of its grey scale, so that no single pixel sets the scale."""


@dataclass(frozen=True)
class Draw:
    """What is kept of chains at one of their states; tensors on the CPU, one row a chain.

    Attributes:
        images: PNG bytes.
        low, high: pixel values shown as 0 and 255, shape (N,).
        score, potential, top_channel, signal: shape (N,).
        plain: scores of the images alone, shape (N,), where the score is a mean over views.
    """

    images: tuple[bytes, ...]
    low: Tensor = field(metadata=ON_CPU)
    high: Tensor = field(metadata=ON_CPU)
    score: Tensor = field(metadata=ON_CPU)
    potential: Tensor = field(metadata=ON_CPU)
    top_channel: Tensor = field(metadata=ON_CPU)
    signal: Tensor = field(metadata=ON_CPU)
    plain: Tensor | None = field(default=None, metadata=ON_CPU)

    def rows(self, chosen: Tensor) -> Draw:
        """Return the draw of the chains whose numbers are ``chosen``, alone."""
        numbers = (self.low, self.high, self.score, self.potential, self.top_channel, self.signal)
        low, high, score, energy, top_channel, power = (column[chosen] for column in numbers)
        plain = None if self.plain is None else self.plain[chosen]
        images = tuple(self.images[row] for row in chosen.tolist())
        return Draw(images, low, high, score, energy, top_channel, power, plain)


@dataclass(frozen=True)
class ChainMeans:
    """The images of chains' mean positions; tensors on the CPU, one row a chain.

    Attributes:
        images: PNG bytes.
        low, high: pixel values shown as 0 and 255, shape (N,).
        score: of these images, shape (N,).
    """

    images: tuple[bytes, ...]
    low: Tensor
    high: Tensor
    score: Tensor


@dataclass(frozen=True)
class DrawsKept:
    """Draws spread evenly over all trajectories so far, in bounded memory: never twice as many as are asked for.

    At first each ``thin``-th state is kept. Where there are twice as many as asked for, every second one goes, and from
    then on states are kept half as often.

    Attributes:
        every: trajectories from one draw to the next; ``thin`` at first.
        draws: those kept, in their order.
    """

    every: int
    draws: tuple[Draw, ...] = ()

    def due(self, count: int) -> bool:
        """Whether the state after ``count`` trajectories is to be kept."""
        return count % self.every == 0

    def add(self, draw: Draw, wanted: int) -> DrawsKept:
        """Return the draws with one that was due; ``wanted`` of them are asked for in the end."""
        draws = (*self.draws, draw)
        return DrawsKept(2 * self.every, draws[1::2]) if len(draws) == 2 * wanted else DrawsKept(self.every, draws)

    def spread(self, wanted: int) -> tuple[Draw, ...]:
        """Return as many draws as are wanted, or as there are, spread evenly."""
        held = len(self.draws)
        count = min(held, wanted)
        return tuple(self.draws[(index + 1) * held // count - 1] for index in range(count))

    def rows(self, chosen: Tensor) -> DrawsKept:
        """Return the draws of the chains whose numbers are ``chosen``, alone."""
        return DrawsKept(self.every, tuple(draw.rows(chosen) for draw in self.draws))


def make_draw(network: Network, scores: Scores, reference: Reference, chains: ChainState, tilt: Tensor) -> Draw:
    """Return the draw of chains: their images as the network's user sees them, and what is known of each.

    Args:
        network: whose pixels the images are shown in.
        scores: of the network up to the chains' layer.
        reference: in whose coordinates the chains are.
        chains: at rest.
        tilt: of each chain, shape (N,).
    """
    x = reference.image(chains.position)
    with torch.no_grad():
        top_channel = scores.responses(x).argmax(1)
        plain = scores.plain(x).cpu() if isinstance(scores, ViewScores) else None
    images, low, high = encode_images(network.pixels(x), bounded=reference.bounds is not None)
    return Draw(
        images=images,
        low=low,
        high=high,
        score=chains.score.cpu(),
        potential=potential(chains, tilt).cpu(),
        top_channel=top_channel.cpu(),
        signal=signal(chains.gradient, reference).cpu(),
        plain=plain,
    )


def make_means(network: Network, density: WhitenedScore, positions: Tensor) -> ChainMeans:
    """Return the images of chains' mean ``positions`` (N, ...) as the network's user sees them, and their scores.

    A linear reference maps the mean position to the mean of the images. A bounded one maps it to the image of which
    each pixel is the logistic of its mean logit: it has the colours of a draw, where the mean of images is grey.
    """
    reference = density.reference
    images, low, high = encode_images(network.pixels(reference.image(positions)), bounded=reference.bounds is not None)
    return ChainMeans(images, low, high, density.value(positions).cpu())


def encode_images(pixels: Tensor, *, bounded: bool = False) -> tuple[tuple[bytes, ...], Tensor, Tensor]:
    """Return PNGs of images (N, C, H, W), and the pixel values shown as 0 and 255.

    One or three channels are shown as they are; of any other number, their mean.

    Args:
        pixels: as the network's user has them, mostly 0..1.
        bounded: whether they are between 0 and 1 for certain: then they are shown so, else each image on its own scale.
    """
    pixels = pixels.detach().float().cpu()
    if pixels.shape[1] not in {1, 3}:
        pixels = pixels.mean(1, keepdim=True)
    if bounded:
        return _pngs(pixels), torch.zeros(len(pixels)), torch.ones(len(pixels))
    ends = torch.quantile(pixels.flatten(1), torch.tensor([_TAIL, 1 - _TAIL]), dim=1)
    least = torch.finfo(torch.float32).eps * ends[0].abs().clamp(min=1)  # a constant image has no scale of its own
    low, high = ends[0], torch.maximum(ends[1], ends[0] + least)
    wide = (-1, 1, 1, 1)
    scaled = (pixels - low.view(wide)) / (high - low).view(wide)
    return _pngs(scaled), low, high


def _pngs(images: Tensor) -> tuple[bytes, ...]:
    return tuple(map(_png, (images.clamp(0, 1) * 255).round().to(torch.uint8)))


def _png(image: Tensor) -> bytes:
    array = image.permute(1, 2, 0).numpy()
    sink = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(sink, format="PNG")
    return sink.getvalue()
