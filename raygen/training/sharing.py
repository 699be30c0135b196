"""What the processes of a training run hold in common: the start, the gradient, the running statistics."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

_FIRST_PART, _PART = 2**20, 25 * 2**20
"""Bytes from which on a part of the gradient is sent: early what is there first, then in messages that fill the wire
(the sizes of PyTorch's DistributedDataParallel; Li et al., VLDB 2020, section 3.2.3)."""


class GradientBuffer:
    """The gradients of a module, laid out in one tensor, summed over the processes part by part without a copy.

    A part is sent while the backward pass still fills the later ones. A plain sum, since the losses' gradients are
    shares of the global one. DistributedDataParallel would average, refuse a process without images, and choose its
    layout anew after the first step, so that a restarted run of three processes or more would round otherwise than one
    that went through.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        # The backward pass comes upon the last parameters first.
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad][::-1]
        self._parts: list[_Part] = []
        self._flat = [self._lay_out(dtype) for dtype in sorted({p.dtype for p in self._parameters}, key=str)]
        self._sent: list[dist.Work] = []
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(lambda _, part=part: self._filled(part))  # type: ignore[no-untyped-call]
            for part in self._parts
            for parameter in part.parameters
        ]

    def _lay_out(self, dtype: torch.dtype) -> Tensor:
        members = [parameter for parameter in self._parameters if parameter.dtype == dtype]
        flat = torch.zeros(sum(p.numel() for p in members), dtype=dtype, device=members[0].device)
        start = sent = 0
        part: list[nn.Parameter] = []
        for parameter in members:
            # The parameter's own strides (channels-last), else every step would reorder the gradient.
            parameter.grad = flat.as_strided(parameter.size(), parameter.stride(), start)
            start += parameter.numel()
            part.append(parameter)
            full = (start - sent) * flat.element_size() >= (_PART if self._parts else _FIRST_PART)
            if full or parameter is members[-1]:
                self._parts.append(_Part(flat[sent:start], part))
                sent, part = start, []
        return flat

    def zero(self) -> None:
        """Set all gradients to 0."""
        for flat in self._flat:
            flat.zero_()

    def expect(self) -> None:
        """Say that the next backward pass is the step's last, so that what it has filled may be sent."""
        if is_shared():
            for part in self._parts:
                part.missing = len(part.parameters)

    def _filled(self, part: _Part) -> None:
        """Note that a parameter of ``part`` has its gradient, and send what is complete."""
        part.missing -= 1
        # In order of the parts, else two processes whose gradients come in another order would wait for ever.
        while len(self._sent) < len(self._parts) and self._parts[len(self._sent)].missing == 0:
            self._send()

    def _send(self) -> None:
        self._sent.append(dist.all_reduce(self._parts[len(self._sent)].flat, async_op=True))

    def sum_over_processes(self) -> None:
        """Put the sum over all processes in place of this one's gradients."""
        if not is_shared():
            return
        # Some gradients never come: of a process without images, of a parameter without part in the scores.
        while len(self._sent) < len(self._parts):
            self._send()
        for work in self._sent:
            work.wait()
        self._sent.clear()
        for part in self._parts:
            part.missing = -1

    def clip(self, norm: float) -> None:
        """Scale all gradients down to the norm given, where theirs, over all parameters, is larger."""
        total = torch.stack([flat.double().square().sum() for flat in self._flat]).sum().sqrt()
        # No question to the device (and no wait for it): a factor of 1 leaves short gradients as they are.
        factor = (norm / total.clamp(min=norm)).nan_to_num(nan=1.0)
        for flat in self._flat:
            flat.mul_(factor.to(flat.dtype))

    def release(self) -> None:
        """Take the gradients from the parameters."""
        for hook in self._hooks:
            hook.remove()
        for parameter in self._parameters:
            parameter.grad = None


def rank_and_processes() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) where it is alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_shared() -> bool:
    """Whether other processes take part, with which messages are to be exchanged."""
    return rank_and_processes()[1] > 1


def add_up(numbers: Tensor) -> Tensor:
    """Put the sums over all processes in place of this one's numbers; return them."""
    if is_shared():
        dist.all_reduce(numbers)
    return numbers


def start_alike(module: nn.Module) -> None:
    """Give every process the parameters and buffers of the first one."""
    if is_shared():
        for tensor in module.state_dict().values():
            _broadcast(tensor)


def average_buffers(module: nn.Module) -> None:
    """Bring running statistics, which each process took of its own shards, to their average over the processes.

    Buffers of whole numbers (counts of batches) become those of the first process.
    """
    if not is_shared():
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


@dataclass
class _Part:
    """Gradients that are sent as one message.

    Attributes:
        flat: all of them.
        parameters: whose they are.
        missing: how many have not come yet; below 0 while none are waited for.
    """

    flat: Tensor
    parameters: list[nn.Parameter]
    missing: int = -1


_TASKS = Path("/proc/self/task")  # psutil knows the threads' numbers, but not their names
_NAMES = ("gloo_tcp_loop", "pt_gloo_runloop")


def calm_gloo() -> int:
    """Give gloo's own threads the scheduling policy of batch work; return how many there are.

    These threads send and receive; they start with the first message.

    When a message comes while another thread holds its connection's lock, gloo's event loop asks for the lock again and
    again. Where it has woken on that thread's core, and so taken it, nobody gets on until the next tick of the clock,
    4 ms later, with three messages a step. A batch thread waits until the core is free, or the other's time is up
    (sched(7)). Two workers of LeNet at 32 images each on two cores took 12.5 to 13.9 ms a step so, and 17.3 to 18.2
    before. Does nothing where the kernel is not Linux.
    """
    calmed = 0
    for task in _TASKS.glob("*") if hasattr(os, "SCHED_BATCH") else ():
        # A thread may end while it is looked at; and where policies may not be changed, gloo works as ever.
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().strip() in _NAMES:
                os.sched_setscheduler(int(task.name), os.SCHED_BATCH, os.sched_param(0))
                calmed += 1
    return calmed
