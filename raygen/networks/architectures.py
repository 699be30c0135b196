"""Networks that torchvision does not hold."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LeNet(nn.Module):
    """Caffe's LeNet (examples/mnist/lenet_train_test.prototxt): (N, 1, 28, 28) to (N, classes).

    The input is pixels / 256, pixels being 0 to 255. There is no nonlinearity after the convolutions but the pooling.
    Weights start from Caffe's "xavier" filler, uniform within sqrt(3 / fan_in), from torch's global generator; biases
    start at 0. Layers bear Caffe's names.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.pool1 = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool2 = nn.MaxPool2d(2, 2)
        self.flatten = nn.Flatten()
        self.ip1 = nn.Linear(800, 500)
        self.relu1 = nn.ReLU()
        self.ip2 = nn.Linear(500, classes)
        for layer in (self.conv1, self.conv2, self.ip1, self.ip2):
            _fill(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (N, classes) of ``x`` (N, 1, 28, 28)."""
        maps = self.pool2(self.conv2(self.pool1(self.conv1(x))))
        scores: Tensor = self.ip2(self.relu1(self.ip1(self.flatten(maps))))
        return scores


def lenet(classes: int = 10) -> LeNet:
    """Return a new :class:`LeNet`."""
    return LeNet(classes)


def _fill(layer: nn.Conv2d | nn.Linear) -> None:
    bound = math.sqrt(3 / layer.weight[0].numel())
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound)
        if layer.bias is not None:
            layer.bias.zero_()
