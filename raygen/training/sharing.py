"""What the processes of a training run hold in common: the start, the gradient, the running statistics."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


class GradientBuffer:
    """The gradients of a module, laid out in one tensor, so that one all-reduce sums them without a copy.

    A plain sum, since the losses' gradients are shares of the global one. DistributedDataParallel would average,
    refuse a process without images, and choose its layout anew after the first step, so that a restarted run of three
    processes or more would round otherwise than one that went through.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._flat = [self._lay_out(dtype) for dtype in sorted({p.dtype for p in self._parameters}, key=str)]

    def _lay_out(self, dtype: torch.dtype) -> Tensor:
        members = [parameter for parameter in self._parameters if parameter.dtype == dtype]
        flat = torch.zeros(sum(p.numel() for p in members), dtype=dtype, device=members[0].device)
        start = 0
        for parameter in members:
            # The parameter's own strides (channels-last), else every step would reorder the gradient.
            parameter.grad = flat.as_strided(parameter.size(), parameter.stride(), start)
            start += parameter.numel()
        return flat

    def zero(self) -> None:
        """Set all gradients to 0."""
        for flat in self._flat:
            flat.zero_()

    def sum_over_processes(self) -> None:
        """Put the sum over all processes in place of this one's gradients."""
        if dist.is_initialized():
            for flat in self._flat:
                dist.all_reduce(flat)

    def clip(self, norm: float) -> None:
        """Scale all gradients down to the norm given, where theirs, over all parameters, is larger."""
        total = torch.stack([flat.double().square().sum() for flat in self._flat]).sum().sqrt()
        # No question to the device (and no wait for it): a factor of 1 leaves short gradients as they are.
        factor = (norm / total.clamp(min=norm)).nan_to_num(nan=1.0)
        for flat in self._flat:
            flat.mul_(factor.to(flat.dtype))

    def release(self) -> None:
        """Take the gradients from the parameters."""
        for parameter in self._parameters:
            parameter.grad = None


def place() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) where it is alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def start_alike(module: nn.Module) -> None:
    """Give every process the parameters and buffers of the first one."""
    if dist.is_initialized():
        for tensor in module.state_dict().values():
            _broadcast(tensor)


def average_buffers(module: nn.Module) -> None:
    """Bring running statistics, which each process took of its own shards, to their average over the processes.

    Buffers of whole numbers (counts of batches) become those of the first process.
    """
    if not dist.is_initialized():
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer.div_(dist.get_world_size())
        else:
            _broadcast(buffer)


def _broadcast(tensor: Tensor) -> None:
    # gloo and NCCL move contiguous memory only.
    whole = tensor.contiguous()
    dist.broadcast(whole, src=0)
    if whole is not tensor:
        tensor.copy_(whole)
