"""Networks that a user may bring: slow ones, and two that end their worker."""

import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raygen.networks.zoo.caffe import LeNet


class SlowLeNet(LeNet):
    """LeNet that takes its time in training, so that there is a middle of an epoch."""

    def __init__(self, pause: float) -> None:
        super().__init__(10)
        self.pause = pause

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            time.sleep(self.pause)
        return super().forward(images)


class SlowSmooth(nn.Sequential):
    """A network without kinks: what two orders of a sum make different stays as small as round-off.

    Where ReLU or a maximum changes sides, 1e-7 of the weights becomes 1e-3 within 20 epochs, on one processor and not
    on another.
    """

    def __init__(self, pause: float) -> None:
        layers = [nn.Conv2d(1, 8, 5), nn.AvgPool2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10)]
        super().__init__(*layers)
        self.pause = pause

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            time.sleep(self.pause)
        return super().forward(images)


class Deadly(LeNet):
    """LeNet whose worker is killed, as by a machine without memory; a look at it without training goes well."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training and dist.is_initialized():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


class Greedy(LeNet):
    """LeNet that asks for more memory than there is."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training and dist.is_initialized():
            torch.empty(1 << 50)
        return super().forward(images)


def slow_lenet(pause: float = 0.1) -> nn.Module:
    return SlowLeNet(pause)


def slow_smooth(pause: float) -> nn.Module:
    return SlowSmooth(pause)


def deadly_lenet() -> nn.Module:
    return Deadly(10)


def greedy_lenet() -> nn.Module:
    return Greedy(10)


def search_path() -> str:
    """What PYTHONPATH must be for other processes to import this module."""
    return os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
