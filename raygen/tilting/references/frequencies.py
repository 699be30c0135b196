"""The frequencies of a discrete Fourier transform of images."""

from __future__ import annotations

import torch
from torch import Tensor


def cycles(height: int, width: int) -> Tensor:
    """Return the frequency of each Fourier coefficient in cycles an image (of the longer side), shape (H, W)."""
    longer = max(height, width)
    rows = torch.fft.fftfreq(height, dtype=torch.float64) * longer
    columns = torch.fft.fftfreq(width, dtype=torch.float64) * longer
    distance: Tensor = (rows[:, None].square() + columns[None, :].square()).sqrt()
    return distance


def angles(height: int, width: int) -> Tensor:
    """Return the direction of each Fourier coefficient's wave in radians, shape (H, W); 0 is along the rows."""
    rows = torch.fft.fftfreq(height, dtype=torch.float64)
    columns = torch.fft.fftfreq(width, dtype=torch.float64)
    return torch.atan2(rows[:, None].expand(height, width), columns.expand(height, width))


def full_plane(half: Tensor, width: int) -> Tensor:
    """Return an even function of the frequency at all of them, from the half plane of ``rfft2``.

    Args:
        half: shape (..., H, W // 2 + 1).
        width: W.

    Returns:
        Shape (..., H, W), in the order of ``fft2``.
    """
    # Column W - k is column k with the rows' frequencies of the other sign: row 0 stays, the others change places.
    rest = half[..., 1 : (width + 1) // 2].flip((-2, -1)).roll(1, -2)
    return torch.cat([half, rest], dim=-1)


def opposite(plane: Tensor) -> Tensor:
    """Return the values at the opposite frequencies, (..., H, W) in the order of ``fft2``."""
    return plane.flip((-2, -1)).roll((1, 1), (-2, -1))
