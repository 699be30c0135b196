"""ZeilerFergusNet, which Caffe's model files do not hold."""

from __future__ import annotations

from torch import Tensor, nn

from raygen.networks.zoo.caffe import fill_normal


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
                fill_normal(layer, 0.01, 0.0)

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
