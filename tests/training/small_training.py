"""A small network and small images that it can learn."""

import torch
from torch import nn

from raygen.data import ImageSet


def blobs(n, seed=0):
    """Three classes, each with a bright row of its own in noise."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=draw)
    images = torch.randint(0, 120, (n, 1, 6, 6), generator=draw, dtype=torch.uint8)
    images[torch.arange(n), 0, 2 * labels] += 100
    return ImageSet("blobs", images, labels, ("top", "middle", "bottom"))


class Flat(nn.Module):
    """As many networks flatten their maps; an empty batch has no answer to -1."""

    def forward(self, x):
        return x.reshape(len(x), -1)


def small_network(dropout=0.0, norm=False):
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), Flat(), nn.Dropout(dropout), nn.Linear(64, 3)]
    if norm:
        layers.insert(1, nn.BatchNorm2d(4))
    return nn.Sequential(*layers)
