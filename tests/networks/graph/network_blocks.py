"""Networks of blocks in which paths meet in many ways."""

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """One of the ways in which networks let paths meet; 4 channels to 4 channels."""

    def __init__(self, kind, kernel, stride, ceil):
        super().__init__()
        self.kind = kind
        self.wide = nn.Conv2d(4, 4, kernel, stride, kernel // 2)
        self.narrow = nn.Conv2d(4, 4, 1, stride)
        self.part = nn.Conv2d(2, 2, kernel, padding="same", dilation=1 + stride // 2)
        self.pool = nn.MaxPool2d(3, stride, 1, ceil_mode=ceil and stride == 1)
        self.lone_pool = nn.MaxPool2d(kernel, stride, kernel // 2, ceil_mode=ceil)
        self.stride, self.ceil, self.kernel = stride, ceil, kernel
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return getattr(self, self.kind)(x)

    def fire(self, x):
        x = self.relu(self.narrow(x))
        other = F.max_pool2d(x, 3, 1, 1)
        return torch.cat([x[:, :2], other[:, 2:]], 1)

    def residual(self, x):
        out = self.relu(self.wide(x))
        out += self.narrow(x)
        return self.relu(out)

    def reduction(self, x):
        return torch.cat([self.pool(x)[:, ::2], self.wide(x)[:, 1::2]], dim=1)

    def gate(self, x):
        return self.wide(x).sigmoid() * self.narrow(x)

    def split(self, x):
        first, second = x.chunk(2, dim=1)
        x = torch.cat((first, F.relu(self.part(second))), dim=1)
        batch, channels, height, width = x.size()
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)

    def pooled(self, x):
        x = F.avg_pool2d(self.lone_pool(x), self.kernel, 1, self.kernel // 2)
        F.relu(x, inplace=True)
        return x


KINDS = ("fire", "residual", "reduction", "gate", "split", "pooled")


def blocks():
    """Lists of the arguments of one to five blocks."""
    block = st.tuples(st.sampled_from(KINDS), st.sampled_from([1, 3, 5]), st.integers(1, 2), st.booleans())
    return st.lists(block, min_size=1, max_size=5)
