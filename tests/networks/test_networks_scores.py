import pytest
import torch
from torch import nn

from raygen.errors import NodeError
from raygen.networks import NetworkSettings, NodeScores, cut_network, load_network, wrap_network

LENET = load_network(NetworkSettings(weights="random"))


class Dynamic(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)

    def forward(self, x):
        return self.conv(x) if x.sum() < 1e9 else x


class Head(nn.Module):
    """A network whose classes are a map: a grouped, strided, padded, dilated convolution, then a pixelwise one."""

    def __init__(self, kernel=1):
        super().__init__()
        self.body = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.grouped = nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2)
        self.join = nn.Conv2d(6, 5, kernel)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x):
        x = self.grouped(self.act(self.body(x)))
        return self.norm(self.join(x)).mean((2, 3))


def head_network(kernel=1, names=()):
    torch.manual_seed(0)
    module = Head(kernel)
    with torch.no_grad():
        module.norm.running_mean.normal_()
        module.norm.weight.normal_()
    return wrap_network(module, name="head", input_shape=(2, 20, 20), class_names=names)


def inputs(count, cut, dtype=torch.float32, seed=0):
    return torch.randn(count, *cut.input_shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


CASES = [
    (LENET, "conv1", True, None),
    (LENET, "conv1", False, (0, 23)),
    (LENET, "conv2", True, None),
    (LENET, "conv2", False, None),
    (LENET, "conv2", False, (7, 1)),
    (LENET, "pool2", False, (3, 0)),
    (LENET, "ip1", True, None),
    (LENET, "relu1", True, None),
    (LENET, "ip2", True, None),
    (head_network(), "grouped", True, None),
    (head_network(), "grouped", False, (0, 0)),
    (head_network(), "grouped", False, (4, 3)),
    (head_network(), "norm", False, (1, 2)),
    (wrap_network(Dynamic(), name="dynamic", input_shape=(2, 7, 7)), "conv", False, (0, 6)),
]


def expected(cut, x, channels, position):
    full = cut.module(x)
    if full.ndim == 4:
        row, column = position or (full.shape[2] // 2, full.shape[3] // 2)
        full = full[:, :, row, column]
    return full[torch.arange(len(x)), channels]


@pytest.mark.parametrize(("network", "layer", "crop", "position"), CASES)
def test_a_score_is_the_response_of_the_rows_channel_with_its_gradient(network, layer, crop, position):
    cut = cut_network(network, layer, crop=crop)
    channels = torch.tensor([0, cut.channels - 1, 1, 1])
    scores = NodeScores(cut, channels, position)
    x = inputs(4, cut).requires_grad_()
    want = expected(cut, x, channels, position)
    got = scores(x)
    assert got.shape == (4,) and got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.responses(x)[torch.arange(4), channels], want, rtol=1e-4, atol=1e-5)
    assert scores.responses(x[:1]).shape == (1, cut.channels)
    wanted = torch.autograd.grad(want.sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(got.sum(), x)[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 2])
def test_a_class_that_is_a_map_scores_its_mean(kernel):
    network = head_network(kernel, names=("a", "b", "c", "d", "e"))
    cut = cut_network(network, "join")
    assert cut.is_classes and not cut.cropped
    channels = torch.tensor([4, 0, 2])
    x = inputs(3, cut)
    want = cut.module(x).mean((2, 3))
    scores = NodeScores(cut, channels)
    torch.testing.assert_close(scores(x), want[torch.arange(3), channels])
    torch.testing.assert_close(scores.responses(x), want)
    at = NodeScores(cut, channels, (0, 1))
    torch.testing.assert_close(at(x), cut.module(x)[torch.arange(3), channels, 0, 1])


@pytest.mark.parametrize("layer", ["conv2", "ip2"])
def test_float64_inputs_are_scored_in_float64(layer):
    cut = cut_network(LENET, layer)
    scores = NodeScores(cut, torch.tensor([3]))
    x = inputs(1, cut, torch.float64).requires_grad_()
    assert scores(x).dtype == scores.responses(x).dtype == torch.float64
    assert torch.autograd.gradcheck(scores, (x,), eps=1e-6, atol=1e-8)
    assert scores(x.float()).dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("network", "layer", "crop", "position"), CASES)
def test_other_precisions_take_and_give_float32_close_to_the_same(network, layer, crop, position, precision):
    cut = cut_network(network, layer, crop=crop)
    channels = torch.arange(32) % cut.channels
    scores = NodeScores(cut, channels, position)
    other = scores.with_precision(precision)
    x = inputs(32, cut).requires_grad_()
    before = scores(x)
    got = other(x)
    assert got.dtype == torch.float32 and other.responses(x).dtype == torch.float32
    gradient = torch.autograd.grad(got.sum(), x)[0]
    wanted = torch.autograd.grad(before.sum(), x)[0]
    bound = 0.05 if precision == "bfloat16" else 1e-4
    assert (got - before).norm() <= bound * before.norm()
    # Max-pooling and ReLU may choose otherwise where two values are close.
    assert gradient.dtype == torch.float32
    assert (gradient - wanted).norm() <= (0.3 if precision == "bfloat16" else 1e-4) * wanted.norm()
    assert torch.equal(scores(x), before)


def test_scores_are_deterministic_in_low_precision():
    cut = cut_network(LENET, "ip2")
    scores = NodeScores(cut, torch.arange(10)).with_precision("bfloat16")
    x = inputs(10, cut)
    assert torch.equal(scores(x), scores(x))


@pytest.mark.parametrize("precision", [None, "float32", "bfloat16"])
def test_a_rows_score_does_not_depend_on_its_company(precision):
    cut = cut_network(LENET, "conv2")
    channels = torch.arange(50)
    x = inputs(50, cut)
    together, alone = NodeScores(cut, channels), NodeScores(cut, channels[7:8])
    if precision:
        together, alone = together.with_precision(precision), alone.with_precision(precision)
    torch.testing.assert_close(together(x)[7:8], alone(x[7:8]), rtol=1e-5, atol=1e-5)


def test_no_gradient_of_a_weight_is_computed():
    cut = cut_network(LENET, "ip2")
    for scores in (NodeScores(cut, torch.arange(4)), NodeScores(cut, torch.arange(4)).with_precision("bfloat16")):
        assert not scores(inputs(4, cut)).requires_grad
        scores(inputs(4, cut).requires_grad_()).sum().backward()
    assert all(value.grad is None for value in [*cut.module.parameters(), *LENET.module.parameters()])


def test_scores_move_to_a_device_as_any_module_does_and_the_cut_stays():
    cut = cut_network(LENET, "conv2")
    scores, other = NodeScores(cut, torch.arange(4)), NodeScores(cut, torch.arange(4))
    x = inputs(4, cut)
    before = scores(x)
    assert scores.to("cpu") is scores and torch.equal(scores(x), before)
    other(x.double())  # leaves a copy in float64, which must not be used on another device
    assert other.to("meta") is other and other(x.to("meta")).device.type == "meta"
    assert other(x.double().to("meta")).device.type == other.responses(x.to("meta")).device.type == "meta"
    assert other.with_precision("bfloat16")(x.to("meta")).device.type == "meta"
    assert {value.device.type for value in cut.module.parameters()} == {"cpu"}
    assert torch.equal(scores(x), before) and torch.equal(NodeScores(cut, torch.arange(4))(x), before)


@pytest.mark.parametrize("layer", ["conv2", "pool2", "ip2"])
def test_a_precision_of_torchs_own_is_the_same_but_for_the_last_step_in_float32(layer):
    cut = cut_network(LENET, layer)
    weights = torch.rand(4, cut.channels, dtype=torch.float64)
    x = inputs(4, cut)
    for more in ({}, {"weights": weights}):
        scores = NodeScores(cut, torch.arange(4), **more)
        want = scores.with_precision("bfloat16")(x)
        assert torch.equal(scores.to(torch.bfloat16)(x), want)
        assert all(value.dtype != torch.bfloat16 for value in scores.readout.buffers())


@pytest.mark.parametrize(
    ("layer", "channels", "position", "message"),
    [
        ("conv1", [0, 20], None, "no channel 20; channels of conv1 are 0-19"),
        ("conv1", [-1], None, "no channel -1"),
        ("conv1", [], None, "give one channel for each row"),
        ("conv2", [0], (3, 4), r"outside the map of conv2 \(cropped to one response\)"),
        ("ip1", [0], (0, 0), "ip1 has no map"),
    ],
)
def test_what_is_not_there_is_refused(layer, channels, position, message):
    with pytest.raises(NodeError, match=message):
        NodeScores(cut_network(LENET, layer), torch.tensor(channels, dtype=torch.int64), position)


def test_another_number_of_inputs_than_channels_is_refused():
    cut = cut_network(LENET, "conv1")
    with pytest.raises(ValueError, match="3 inputs for 2 channels"):
        NodeScores(cut, torch.tensor([0, 1]))(inputs(3, cut))
