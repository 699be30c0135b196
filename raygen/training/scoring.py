"""From stored images to class scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from raygen.errors import DataError
from raygen.networks import first_real, forward_of, speed_up
from raygen.training.settings import Precision

_RIGHT = "give a network that takes batches of images in training mode, and smaller ones if memory is short"


@dataclass(frozen=True)
class Scorer:
    """How stored images become the scores of a network.

    Attributes:
        mean, std: (C, 1, 1), on the scale of stored pixels, 0 to 255; of the network's type, which its input gets.
        classes: how many scores the network must give.
        precision: of the network's arithmetic.
    """

    mean: Tensor
    std: Tensor
    classes: int
    precision: Precision

    def scores(self, module: nn.Module, images: Tensor) -> Tensor:
        """Return the scores (n, classes) of ``images`` (n, C, H, W) uint8; n may be 0.

        Raises:
            DataError: the network gives another number of scores.
            NetworkError: its forward fails.
        """
        if not len(images):  # some layers refuse an empty batch
            return self.mean.new_zeros(0, self.classes)
        inputs = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with (
            forward_of("the network", _RIGHT),
            torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"),
        ):
            scores = _main(module(inputs))
        if scores.shape != (len(images), self.classes):
            what = f"the network gives scores {tuple(scores.shape)} for {len(images)} images of {self.classes} classes"
            raise DataError(what, where="data", right=f"choose a network with {self.classes} classes")
        return scores

    def exact(self) -> Scorer:
        """Return the same in float32."""
        return replace(self, precision="float32")


def _main(output: object) -> Tensor:
    """Return the scores alone of what a network puts out, in training mode perhaps with auxiliary ones behind them.

    Of scores by name those are meant that bear torchvision's name or the common one, else the first.
    """
    if isinstance(output, dict):
        named = [output[name] for name in ("out", "logits") if name in output]
        output = tuple(named or output.values())
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"it puts out a {type(output).__name__}")
    return output


def make_scorer(
    mean: Sequence[float], std: Sequence[float], classes: int, precision: Precision, module: nn.Module
) -> Scorer:
    """Make a :class:`Scorer` for ``module`` of the mean and the divisor of each channel, pixels being 0 to 1."""
    weight = first_real(module)
    centre, scale = (255 * weight.new_tensor(values)[:, None, None] for values in (mean, std))
    return Scorer(centre, scale, classes, precision)


def make_ready(module: nn.Module, device: torch.device) -> None:
    """Put ``module`` on a device, in the form in which it trains fastest; what it computes stays the same."""
    module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    speed_up(module)


@contextmanager
def arithmetic(precision: Precision) -> Iterator[None]:
    """Let CUDA use TF32 within the block if asked to, and not if not: cuDNN would by default, cuBLAS would not."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
