"""Scores of users' own networks, however they compute, against the network itself, one image at a time."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raygen.errors import NetworkError
from raygen.networks import (
    Node,
    check_alone,
    cut_for,
    dead_nodes,
    leads_uphill,
    list_layers,
    score_nodes,
    wrap_network,
)
from raygen.networks.graph.tracing import trace

SIDE = 16


class Net(nn.Module):
    """Two convolutions and a linear layer; what stands between them is the subject of each test."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(16, 10)

    def between(self, x):
        return x.relu()

    def forward(self, x):
        return self.fc(self.b(self.between(self.a(x))).mean((2, 3)))


class Autocast(Net):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = self.a(x).relu()
        return self.fc(self.b(x.float()).mean((2, 3)))


class Fourier(Net):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, SIDE, SIDE // 2 + 1, 2))

    def between(self, x):
        return torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(self.w), s=(SIDE, SIDE))


class Views(Net):
    def between(self, x):
        return x.view(len(x), -1).relu().view(x.shape)


class Keeps(Net):
    def between(self, x):
        self.kept = x
        return x.relu() + 0 * self.kept


class MeansOverBatch(Net):
    def between(self, x):
        return (x - 0.5 * x.mean(0, keepdim=True)).relu()


class StatisticsOfBatch(Net):
    def __init__(self):
        super().__init__()
        self.n = nn.BatchNorm2d(8, track_running_stats=False)

    def between(self, x):
        return self.n(x).relu()


class OneImage(Net):
    def between(self, x):
        return x.view(1, 8, SIDE, SIDE).relu()


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Rounds(Net):
    def between(self, x):
        return StraightThrough.apply(3 * x)


class LooksAtValues(Net):
    def between(self, x):
        return x.relu() if float(x.detach().abs().mean()) > 0.3 else -x


class Complex(Net):
    def __init__(self):
        super().__init__()
        self.c = nn.Parameter(torch.randn(8, 1, 1, dtype=torch.complex64))

    def between(self, x):
        return (x * self.c).abs()


class Dropout(Net):
    def between(self, x):
        return F.dropout(x.relu(), 0.5)


class ChangesItsInput(Net):
    def forward(self, x):
        return super().forward(x.sub_(0.3).div_(0.2))


class OtherArguments(Net):
    def forward(self, x, mask=None, scale=2.0):
        return super().forward(scale * x if mask is None else x * mask)


class HooksATensor(Net):
    def between(self, x):
        x = x.relu()
        if x.requires_grad:
            x.register_hook(lambda gradient: 3 * gradient)
        return x


class RareNoise(Net):
    def between(self, x):
        return x.relu() * (1.0 if torch.rand(()).item() > 1e-6 else 2.0)


class Counts(Net):
    count = 0

    def between(self, x):
        self.count += 1
        return x.relu() * self.count


class MixesCalls(Net):
    def between(self, x):
        kept, self.kept = getattr(self, "kept", None), x.detach()
        return x.relu() if kept is None or kept.shape != x.shape else x.relu() + 0.5 * kept


KINDS = [
    Net, Autocast, Fourier, Views, Keeps, MeansOverBatch, StatisticsOfBatch, OneImage, Rounds, LooksAtValues, Complex,
    ChangesItsInput, OtherArguments, HooksATensor,
]  # fmt: skip


def wrapped(module):
    return wrap_network(module, name="case", input_shape=(3, SIDE, SIDE))


def own(module, layer, channel, image, position):
    """The response of one channel to one image, and its gradient, by the user's module itself."""
    x, seen = image[None].clone().requires_grad_(), []
    handle = module.get_submodule(layer).register_forward_hook(lambda _, inputs, output: seen.append(output.clone()))
    module(x.clone())
    handle.remove()
    response = seen[0][0, channel] if position is None else seen[0][0, channel, position[0], position[1]]
    return response.detach(), torch.autograd.grad(response, x)[0][0]


@pytest.mark.parametrize("layer", ["a", "b", "fc"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_gradients_are_those_of_the_network_itself_one_image_at_a_time(kind, layer):
    torch.manual_seed(0)
    module = kind().eval()
    network = wrapped(module)
    cut = cut_for(network, Node(layer, 0))
    channels = (0, 3, 7)
    scores = score_nodes(cut, [Node(layer, channel) for channel in channels])
    scales = torch.tensor([1.0, 0.3, 2.0])[:, None, None, None]
    images = scales * torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    (top, left), (height, width) = cut.origin, cut.input_shape[1:]
    x = images[:, :, top : top + height, left : left + width].clone().requires_grad_()
    found = scores(x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    position = None if layer == "fc" else cut.position or (SIDE // 2, SIDE // 2)
    reference = copy.deepcopy(module)
    for row, channel in enumerate(channels):
        score, slope = own(reference, layer, channel, images[row], position)
        torch.testing.assert_close(found[row].detach(), score.float(), rtol=2e-2, atol=2e-3)
        slope = slope[:, top : top + height, left : left + width]
        assert float((gradient[row] - slope).norm()) <= 2e-2 * float(slope.norm())


def test_torchs_own_layers_keep_every_shortcut():
    network = wrapped(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3))
    )
    for layer in list_layers(network):
        cut = cut_for(network, Node(layer.name, 0))
        assert cut.cropped
        assert not cut.plain


@pytest.mark.parametrize(("kind", "one_by_one"), [(Views, False), (OneImage, True), (MeansOverBatch, True)])
def test_images_are_given_one_by_one_only_where_the_network_needs_it(kind, one_by_one, caplog):
    cut = cut_for(wrapped(kind()), Node("fc", 0))
    assert cut.one_by_one is one_by_one
    assert ("as it is" in caplog.text) is cut.plain


def test_a_network_that_draws_random_numbers_in_evaluation_mode_is_refused_by_its_layer():
    with pytest.raises(NetworkError, match=r"^layer b of network case: draws random numbers"):
        cut_for(wrapped(Dropout()), Node("b", 0))
    with pytest.raises(NetworkError, match=r"^layer b of network case: draws random numbers"):
        check_alone(wrapped(Dropout()), ["a", "b", "fc"])


@pytest.mark.parametrize(
    ("kind", "says"), [(RareNoise, "draws random numbers"), (Counts, "second time"), (MixesCalls, "second time")]
)
def test_what_changes_rarely_or_with_each_call_is_refused_too(kind, says):
    with pytest.raises(NetworkError, match=rf"^layer b of network case: .*{says}"):
        cut_for(wrapped(kind()), Node("b", 0))
    with pytest.raises(NetworkError, match=rf"^layer b of network case: .*{says}"):
        check_alone(wrapped(kind()), ["a", "b"])


def test_tracing_leaves_nothing_on_the_network():
    network = wrapped(Keeps())
    assert trace(network.module, network.input_shape) is not None
    assert not hasattr(network.module, "kept")
    network.module.kept = torch.ones(1)
    trace(network.module, network.input_shape)
    assert torch.equal(network.module.kept, torch.ones(1))


def test_a_network_without_gradients_has_dead_nodes():
    class NoGradient(Net):
        def between(self, x):
            with torch.no_grad():
                return x.relu()

    cut = cut_for(wrapped(NoGradient()), Node("fc", 0))
    found = dead_nodes(cut, [Node("fc", 0)], torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    assert found == {Node("fc", 0): "dead: its score has no gradient at any of 4 images"}


def test_evaluation_mode_holds_whatever_a_modules_own_eval_does():
    class Stays(Net):
        def eval(self):
            return self

    assert not any(part.training for part in wrapped(Stays()).module.modules())


class WithTuple(Net):
    """Its state holds more than tensors, as that of layers with packed, quantised weights does."""

    def get_extra_state(self):
        return (1, None)

    def set_extra_state(self, state):
        pass


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3))), WithTuple],
)
def test_modules_that_cannot_be_observed_are_refused_in_one_line(make):
    module = make()
    with pytest.raises(NetworkError, match=r"^network case: .*; give (the|a) module"):
        wrapped(module)


def test_random_numbers_above_the_layers_that_are_asked_for_do_not_matter():
    network = wrapped(Dropout())
    check_alone(network, ["a"])
    assert cut_for(network, Node("a", 0)).cropped


@pytest.mark.parametrize("kind", [MeansOverBatch, StatisticsOfBatch])
def test_a_network_that_mixes_images_is_refused_before_it_is_sampled(kind):
    with pytest.raises(NetworkError, match=r"^layer b of network case: .*other images"):
        check_alone(wrapped(kind()), ["a", "b"])


def test_a_network_that_takes_one_image_at_a_time_is_not_refused():
    check_alone(wrapped(OneImage()), ["a", "b", "fc"])


def test_what_the_networks_own_code_says_stands_in_the_one_line():
    class Fails(Net):
        def between(self, x):
            raise KeyError("no such thing\nin two lines")

    with pytest.raises(NetworkError, match=r"KeyError.*no such thing") as caught:
        check_alone(wrapped(Fails()), ["fc"])
    assert "\n" not in str(caught.value)


def test_forces_that_a_precision_breaks_are_known_by_their_direction():
    class OnlyFloat(Net):
        def between(self, x):
            return x.relu() if x.dtype == torch.float32 else -x

    x = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    for kind, good in ((Net, True), (OnlyFloat, False), (Fourier, False)):
        scores = score_nodes(cut_for(wrapped(kind()), Node("fc", 0)), [Node("fc", 0)], 4)
        assert leads_uphill(scores, scores.with_precision("bfloat16"), x) is good


class Residual(nn.Module):
    """A block that ends with a sum and a ReLU, where a module has no hook before it."""

    def __init__(self, ends=F.relu):
        super().__init__()
        self.c = nn.Conv2d(3, 3, 3, padding=1)
        self.ends = ends

    def forward(self, x):
        return self.ends(x + self.c(x))


@pytest.mark.parametrize(
    "node", [Node("0", 1), Node("0", 1, after=True), Node("0", 1, mean=True), Node("0", 1, (3, 4))]
)
@pytest.mark.parametrize("ends", [F.relu, F.relu6, torch.relu_])
def test_blocks_that_end_with_a_relu_keep_their_shortcuts(ends, node):
    torch.manual_seed(0)
    network = wrapped(nn.Sequential(Residual(ends), nn.Conv2d(3, 4, 3)))
    cut = cut_for(network, node)
    assert not cut.plain
    assert cut.before_relu is not node.after
    x = torch.randn(4, *cut.input_shape)
    found = score_nodes(cut, [node], 4)(x)
    block = network.module[0]
    sums = x + F.conv2d(x, block.c.weight, block.c.bias, padding=1)
    if cut.cropped:
        assert cut.input_shape == (3, 3, 3)
        sums = sums[:, :, 1:2, 1:2]
    expected = (ends(sums.clone()) if node.after else sums)[:, 1]
    row, column = node.position or (expected.shape[1] // 2, expected.shape[2] // 2)
    expected = expected.mean((1, 2)) if node.mean else expected[:, row, column]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
