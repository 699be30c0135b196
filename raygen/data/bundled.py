"""The 1,797 handwritten digits bundled with scikit-learn (UCI "Optical Recognition of Handwritten Digits").

Each is a 32x32 scan whose ink was counted in blocks of 4x4: 8x8 numbers from 0 to 16. Here they are brought to 28x28,
the shape of MNIST's digits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from raygen.data.images import ImageSet, stratified_split

_SIZE = 28
_SPLIT_SEED = 0


def digits() -> tuple[ImageSet, ImageSet]:
    """Return 1,438 training and 359 test images of 1x28x28, always the same ones; needs no network and no file."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  (a second to import, for one data set)

    bunch = load_digits()
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    whole = ImageSet("digits", _enlarge(torch.from_numpy(bunch.images)), labels, tuple("0123456789"))
    train, test = stratified_split(labels, test_part=0.2, seed=_SPLIT_SEED)
    return whole.subset(train), whole.subset(test)


def _enlarge(blocks: Tensor) -> Tensor:
    """Bring block counts (n, 8, 8), 0..16, to pixels (n, 1, 28, 28) uint8."""
    # The scans fill their 8x8 to the edge. A margin of one block keeps strokes whole, and gives digits of 22 pixels in
    # 28 (MNIST: 20 in 28). Bicubic interpolation overshoots at edges, which is what makes strokes as sharp as MNIST's.
    margin = functional.pad(blocks.float().unsqueeze(1) * (255 / 16), (1, 1, 1, 1))
    smooth = functional.interpolate(margin, size=(_SIZE, _SIZE), mode="bicubic", align_corners=False)
    return smooth.round().clamp(0, 255).to(torch.uint8)
