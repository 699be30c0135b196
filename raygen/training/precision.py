"""Which arithmetic the device may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raygen.training.settings import Precision


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
