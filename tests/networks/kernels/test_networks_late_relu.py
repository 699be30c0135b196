import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from raygen.networks.kernels.pooling import with_late_relus


class Fire(nn.Module):
    """As SqueezeNet's: two branches joined, then pooled."""

    def __init__(self, inplace, functional=False):
        super().__init__()
        self.first, self.one, self.three = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 1), nn.Conv2d(4, 5, 3, padding=1)
        self.relu = F.relu if functional else nn.ReLU(inplace)
        self.other = F.relu if functional else nn.ReLU(inplace)
        self.pool, self.again = nn.MaxPool2d(3, 2, padding=1), nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x):
        x = self.pool(self.relu(self.first(x)))
        return self.again(torch.cat([self.other(self.one(x)), self.other(self.three(x))], 1))


class Shared(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what, self.relu, self.pool = what, nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x):
        if self.what == "relu":
            y = self.relu(x + 1)
            return self.pool(y).mean() + y.mean()
        if self.what == "input":
            y = x + 1
            return self.pool(self.relu(y)).mean() + y.mean()
        y = torch.cat([self.relu(x + 1), x], 1)
        return self.pool(y)


def relu_sizes(graph, x):
    sizes = []

    class Watch(fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            if "relu" in str(node.target) or "other" in str(node.target):
                sizes.append(tuple(value.shape[2:]))
            return value

    Watch(graph).run(x)
    return sizes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inplace", "functional"), [(True, False), (False, False), (False, True)])
def test_values_and_gradients_stay_the_same_to_the_last_bit(inplace, functional, dtype):
    torch.manual_seed(0)
    graph = fx.symbolic_trace(Fire(inplace, functional).requires_grad_(False)).to(dtype)
    x = torch.randn(4, 3, 22, 23).to(dtype).requires_grad_()
    code = graph.code
    late = with_late_relus(graph)
    wanted, found = graph(x), late(x)
    assert torch.equal(found, wanted)
    upstream = torch.randn(wanted.shape).to(dtype)
    assert torch.equal(torch.autograd.grad(found, x, upstream)[0], torch.autograd.grad(wanted, x, upstream)[0])
    assert relu_sizes(graph, x) == [(20, 21), (10, 11), (10, 11)]
    assert relu_sizes(late, x) == [(10, 11), (5, 6)]
    assert graph.code == code != late.code


@pytest.mark.parametrize("what", ["relu", "input", "joined"])
def test_a_relu_with_another_use_stays(what):
    graph = fx.symbolic_trace(Shared(what))
    assert with_late_relus(graph) is graph


def test_what_is_not_a_graph_stays():
    module = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    assert with_late_relus(module) is module
