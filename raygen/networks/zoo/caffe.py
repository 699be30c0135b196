"""The networks of the paper, which torchvision does not hold: Caffe's LeNet and AlexNet, and ZeilerFergusNet."""

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
            _fill_uniform(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (N, classes) of ``x`` (N, 1, 28, 28)."""
        maps = self.pool2(self.conv2(self.pool1(self.conv1(x))))
        scores: Tensor = self.ip2(self.relu1(self.ip1(self.flatten(maps))))
        return scores


def lenet(classes: int = 10) -> LeNet:
    """Return a new :class:`LeNet`."""
    return LeNet(classes)


class AlexNet(nn.Module):
    """Caffe's AlexNet (models/bvlc_alexnet/train_val.prototxt): (N, 3, 227, 227) to (N, classes).

    The one of the paper, after Krizhevsky et al. (2012): convolutions 2, 4 and 5 in two groups, local response
    normalisation before the pooling. Weights start from Caffe's fillers, from torch's global generator. Layers bear
    Caffe's names, so that converted weights fit.

    Args:
        classes: number of classes.
        pool_first: pool before the normalisation, as CaffeNet does (models/bvlc_reference_caffenet).
        bgr: whether the first convolution's weights are for blue, green and red, as Caffe's are; the input is red,
            green and blue all the same.
    """

    def __init__(self, classes: int = 1000, *, pool_first: bool = False, bgr: bool = True) -> None:
        super().__init__()
        self.bgr = bgr
        self.pool_first = pool_first
        self.conv1 = nn.Conv2d(3, 96, 11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.fc6, self.fc7 = nn.Linear(256 * 6 * 6, 4096), nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)
        self.norm1, self.norm2 = nn.LocalResponseNorm(5), nn.LocalResponseNorm(5)  # alpha 1e-4, beta 0.75, k 1
        self.pool1, self.pool2, self.pool5 = (nn.MaxPool2d(3, 2) for _ in range(3))
        self.drop6, self.drop7 = nn.Dropout(), nn.Dropout()
        self.relu1, self.relu2, self.relu3, self.relu4, self.relu5 = (nn.ReLU() for _ in range(5))
        self.relu6, self.relu7 = nn.ReLU(), nn.ReLU()
        for name, deviation, bias in _ALEXNET_FILLERS:
            _fill_normal(self.get_submodule(name), deviation, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (N, classes) of ``x`` (N, 3, 227, 227)."""
        if self.bgr:
            x = x[:, [2, 1, 0]]
        x = self._squash(self.relu1(self.conv1(x)), self.norm1, self.pool1)
        x = self._squash(self.relu2(self.conv2(x)), self.norm2, self.pool2)
        x = self.relu4(self.conv4(self.relu3(self.conv3(x))))
        x = self.pool5(self.relu5(self.conv5(x)))
        x = self.drop6(self.relu6(self.fc6(x.flatten(1))))
        scores: Tensor = self.fc8(self.drop7(self.relu7(self.fc7(x))))
        return scores

    def _squash(self, x: Tensor, norm: nn.Module, pool: nn.Module) -> Tensor:
        squashed: Tensor = norm(pool(x)) if self.pool_first else pool(norm(x))
        return squashed


_ALEXNET_FILLERS = (
    ("conv1", 0.01, 0.0), ("conv2", 0.01, 0.1), ("conv3", 0.01, 0.0), ("conv4", 0.01, 0.1), ("conv5", 0.01, 0.1),
    ("fc6", 0.005, 0.1), ("fc7", 0.005, 0.1), ("fc8", 0.01, 0.0),
)  # fmt: skip


def caffe_alexnet(classes: int = 1000, *, bgr: bool = True) -> AlexNet:
    """Return a new :class:`AlexNet`."""
    return AlexNet(classes, bgr=bgr)


def caffenet(classes: int = 1000, *, bgr: bool = True) -> AlexNet:
    """Return a new :class:`AlexNet` that pools first."""
    return AlexNet(classes, pool_first=True, bgr=bgr)


class ZeilerFergusNet(nn.Module):
    """ZeilerFergusNet (fast): (N, 3, 224, 224) to (N, classes).

    Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (2013), figure 3: AlexNet without groups,
    with a first convolution of 7x7 at stride 2 and a second one at stride 2. Each of the first two is rectified,
    pooled, then normalised over channels; the constants of the normalisation are AlexNet's, the paper gives none.
    Pooling goes on over the edge, as Caffe's does, which makes the figure's maps of 55 and 13. Weights start from
    N(0, 0.01^2), biases from 0 (section 3.1), from torch's global generator. Layers bear Caffe's names.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2, padding=1)
        self.conv2 = nn.Conv2d(96, 256, 5, stride=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1)
        self.fc6, self.fc7 = nn.Linear(256 * 6 * 6, 4096), nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)
        self.norm1, self.norm2 = nn.LocalResponseNorm(5), nn.LocalResponseNorm(5)  # alpha 1e-4, beta 0.75, k 1
        self.pool1, self.pool2, self.pool5 = (nn.MaxPool2d(3, 2, ceil_mode=True) for _ in range(3))
        self.drop6, self.drop7 = nn.Dropout(), nn.Dropout()
        self.relu1, self.relu2, self.relu3, self.relu4, self.relu5 = (nn.ReLU() for _ in range(5))
        self.relu6, self.relu7 = nn.ReLU(), nn.ReLU()
        for layer in self.children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                _fill_normal(layer, 0.01, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (N, classes) of ``x`` (N, 3, 224, 224)."""
        x = self.norm1(self.pool1(self.relu1(self.conv1(x))))
        x = self.norm2(self.pool2(self.relu2(self.conv2(x))))
        x = self.relu4(self.conv4(self.relu3(self.conv3(x))))
        x = self.pool5(self.relu5(self.conv5(x)))
        x = self.drop6(self.relu6(self.fc6(x.flatten(1))))
        scores: Tensor = self.fc8(self.drop7(self.relu7(self.fc7(x))))
        return scores


def zeiler_fergus(classes: int = 1000) -> ZeilerFergusNet:
    """Return a new :class:`ZeilerFergusNet`."""
    return ZeilerFergusNet(classes)


def _fill_normal(layer: nn.Module, deviation: float, bias: float) -> None:
    """Draw the weights of a convolution or a linear layer from N(0, deviation^2), and set its biases."""
    assert isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None
    nn.init.normal_(layer.weight, std=deviation)
    nn.init.constant_(layer.bias, bias)


def _fill_uniform(layer: nn.Conv2d | nn.Linear) -> None:
    bound = math.sqrt(3 / layer.weight[0].numel())
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound)
        if layer.bias is not None:
            layer.bias.zero_()
