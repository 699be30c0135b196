"""What a node's score is: directions, means, before and after a ReLU of any kind, and nothing of its neighbours."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raygen.errors import NodeError
from raygen.networks import (
    NetworkSettings,
    Node,
    NodeScores,
    cut_for,
    cut_network,
    list_layers,
    load_network,
    parse_nodes,
    score_nodes,
    sum_node,
    wrap_network,
)


class Mixed(nn.Module):
    """ReLUs of every kind: functional, a method, in place, without its result, shared, and after a sum."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1, groups=3, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.tower = Tower(6)
        self.third = nn.Conv2d(6, 6, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = nn.Linear(6, 5)

    def forward(self, x):
        x = self.first(x)
        x.relu_()
        x = self.relu(self.norm(self.second(x)))
        x = self.tower(x)
        out = self.third(x)
        F.relu(out, inplace=True)
        out += x
        return self.last(torch.flatten(self.pool(torch.relu(out)), 1))


class Tower(nn.Module):
    """A residual block that ends with a functional ReLU."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        out = self.conv(x)
        out += x
        return F.relu(out, inplace=True)


def mixed():
    torch.manual_seed(0)
    module = Mixed()
    with torch.no_grad():
        module.norm.running_mean.normal_()
        module.norm.bias.normal_()
    return wrap_network(module.double(), name="mixed", input_shape=(2, 13, 13), class_names=tuple("abcde"))


MIXED = mixed()
LAYERS = list_layers(MIXED)


def nodes(text):
    return parse_nodes(text, MIXED, LAYERS)


def images(count, shape, seed=0):
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(module, x):
    """Every value of ``Mixed`` on the way, none of them changed in place."""
    values = {"first": module.first(x)}
    values["second"] = module.second(values["first"].relu())
    values["norm"] = values["relu"] = module.norm(values["second"])
    inside = values["norm"].relu()
    values["tower.conv"] = module.tower.conv(inside)
    values["tower"] = values["tower.conv"] + inside
    values["third"] = module.third(values["tower"].relu())
    out = (values["third"].relu() + values["tower"].relu()).relu()
    values["last"] = module.last(out.mean((2, 3)))
    return values


@pytest.mark.parametrize("layer", ["first", "second", "norm", "relu", "tower.conv", "tower", "third", "last"])
def test_a_layer_is_scored_before_its_relu_whatever_kind_of_relu_follows(layer, crop_corner):
    x = images(3, MIXED.input_shape)
    want = by_hand(MIXED.module, x)[layer]
    torch.testing.assert_close(cut_network(MIXED, layer, crop=False).module(x), want)
    assert want.min() < 0
    cropped = cut_network(MIXED, layer)
    assert cropped.cropped == (layer != "last")
    if cropped.cropped:
        (top, left), (height, width) = crop_corner(MIXED, cropped), cropped.input_shape[1:]
        part = x[:, :, top : top + height, left : left + width]
        torch.testing.assert_close(
            cropped.module(part)[:, :, 0, 0], want[:, :, cropped.position[0], cropped.position[1]]
        )


@pytest.mark.parametrize("layer", ["relu", "tower"])
@pytest.mark.parametrize("crop", [False, True])
def test_on_request_a_layer_is_scored_after_its_relu(layer, crop, crop_corner):
    x = images(3, MIXED.input_shape)
    want = by_hand(MIXED.module, x)[layer].relu()
    (node,) = nodes(f"{layer}:4@relu")
    cut = cut_for(MIXED, node, crop=crop)
    assert cut.after and cut.cropped == crop
    if crop:
        (top, left), (height, width) = crop_corner(MIXED, cut), cut.input_shape[1:]
        x = x[:, :, top : top + height, left : left + width]
    row, column = cut.position or (3, 3)
    torch.testing.assert_close(score_nodes(cut, [node], 3)(x), want[:, 4, row, column])


def test_layers_without_a_relu_have_nothing_after_it():
    assert [layer.name for layer in LAYERS if layer.rectified] == ["relu", "tower"]
    with pytest.raises(NodeError, match="layer third: ends with no ReLU; leave @relu out"):
        cut_network(MIXED, "third", after=True)


class Dynamic(nn.Module):
    """A network without a graph, whose ReLU changes its input in place."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.conv(x))
        return x if x.sum() < 1e9 else -x


@pytest.mark.parametrize("after", [False, True])
def test_a_network_without_a_graph_is_scored_before_and_after_its_relu_too(after):
    network = wrap_network(Dynamic().double(), name="dynamic", input_shape=(2, 7, 7))
    x = images(2, network.input_shape)
    want = network.module.conv(x)
    for layer in ("conv", "relu"):
        if after and layer == "conv":
            continue
        got = cut_network(network, layer, after=after).module(x)
        torch.testing.assert_close(got, want.relu() if after else want)


def expected(cut, x, batch):
    """The scores of ``batch``, a row each, from all responses of the cut's layer."""
    response = cut.module(x)
    rows = []
    for row, node in enumerate(batch):
        value = response[row]
        if value.ndim == 3 and (node.mean or cut.is_classes):
            value = value.mean((1, 2))
        elif value.ndim == 3:
            down, across = node.position or (value.shape[1] // 2, value.shape[2] // 2)
            value = value[:, down, across]
        rows.append(sum(weight * value[channel] for channel, weight in node.terms or ((node.channel, 1.0),)))
    return torch.stack(rows)


@pytest.mark.parametrize(
    "text",
    [
        "first:[0.5*2-4] first:3 first:[-1+2+5]",
        "first:[0.5*2-4]@0,12 first:3@0,12",
        "first:[0.5*2-4]@mean first:3@mean",
        "second:[0-5] second:[0.25*1+3*2] second:5",
        "second:[0-5]@6,0 second:1@6,0",
        "second:[0-5]@mean second:2@mean",
        "norm:[1-3] norm:0",
        "tower:[1-3]@relu tower:0@relu",
        "relu:5@mean@relu relu:[2*0-3]@mean@relu",
        "third:[1-3]@mean third:4@mean",
        "last:[a-e] last:b last:[{c}+{d}-2*{a}]",
    ],
)
@pytest.mark.parametrize("crop", [False, True])
def test_directions_means_and_positions_with_their_gradients(text, crop):
    batch = [node for node in nodes(text) for _ in range(2)]
    cut = cut_for(MIXED, batch[0], crop=crop)
    x = images(len(batch), cut.input_shape).requires_grad_()
    want = expected(cut, x, batch)
    scores = score_nodes(cut, nodes(text), chains=2)
    got = scores(x)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    (gradient,) = torch.autograd.grad(want.sum(), x)
    torch.testing.assert_close(torch.autograd.grad(got.sum(), x)[0], gradient, rtol=1e-9, atol=1e-10)
    single = scores.with_precision("float32").to("cpu")(x.detach().float())
    torch.testing.assert_close(single, want.float(), rtol=1e-3, atol=1e-4)


def test_a_mean_class_map_takes_directions():
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = wrap_network(module.double(), name="head", input_shape=(2, 9, 9), class_names=("a", "b", "c"))
    (node,) = parse_nodes("2:[c-0.5*a]", network, list_layers(network))
    x = images(4, network.input_shape)
    logits = network.module(x)
    torch.testing.assert_close(score_nodes(cut_for(network, node), [node], 4)(x), logits[:, 2] - 0.5 * logits[:, 0])


@pytest.mark.parametrize(
    ("layer", "more", "message"),
    [
        ("first", {"mean": True}, "cropped to one response, which has no mean; cut it with crop=False"),
        ("last", {"mean": True}, "has no map, which has no mean"),
        ("first", {"weights": torch.ones(1, 5)}, r"weights of shape \(1, 5\); give them as \(1, 6\)"),
        ("first", {"weights": torch.full((1, 6), torch.nan)}, "no finite numbers"),
        ("first", {"weights": torch.ones(1, 6, dtype=torch.int64)}, "no finite numbers"),
    ],
)
def test_means_and_weights_that_do_not_fit_are_refused(layer, more, message):
    with pytest.raises(NodeError, match=message):
        NodeScores(cut_network(MIXED, layer), torch.tensor([0]), **more)


def test_nodes_of_several_kinds_are_not_scored_together():
    cut = cut_network(MIXED, "first")
    for batch in (nodes("first:1 first:2@mean"), nodes("first:1 second:1"), nodes("second:1"), ()):
        with pytest.raises(NodeError, match="score the nodes of one layer and ending"):
            score_nodes(cut, batch)
    with pytest.raises(NodeError, match=r"node first:\[1-9\]: there is no channel 9"):
        score_nodes(cut, [sum_node("first", [(1, 1.0), (9, -1.0)])])
    with pytest.raises(NodeError, match="there is no channel 9"):
        score_nodes(cut, [Node("first", 9)])


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("squeezenet1_1", ("features.4.expand3x3", "classifier.1")),
        ("resnet18", ("layer1.1", "layer4.0.bn2", "fc")),
        ("shufflenet_v2_x0_5", ("stage2.1", "fc")),
        ("densenet121", ("features.denseblock1.denselayer2.conv1",)),
        ("efficientnet_b0", ("features.2.0.block.2",)),
    ],
)
def test_a_score_does_not_depend_on_the_other_rows(name, layers):
    network = load_network(NetworkSettings(network=name, weights="random", input_size=64))
    for layer in layers:
        cut = cut_network(network, layer)
        x = images(6, cut.input_shape).float()
        channels = torch.arange(6) % cut.channels
        together = NodeScores(cut, channels)(x)
        order = torch.tensor([3, 0, 5])
        company = torch.cat([x[order], 100 * x[:2]])
        others = NodeScores(cut, torch.cat([channels[order], channels[:2]]))(company)[:3]
        scale = float(together.abs().max())
        torch.testing.assert_close(others, together[order], rtol=1e-4, atol=1e-5 * scale)
        alone = torch.cat([NodeScores(cut, channels[row : row + 1])(x[row : row + 1]) for row in range(6)])
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5 * scale)


def test_the_callers_model_stays_as_it_was():
    module = Mixed().train()
    module.drop = nn.Dropout(0.9)
    before = {name: (value.clone(), value.requires_grad) for name, value in module.named_parameters()}
    statistics = {name: value.clone() for name, value in module.named_buffers()}
    network = wrap_network(module, name="mine", input_shape=(2, 13, 13), class_names=tuple("abcde"))
    for layer in list_layers(network):
        scores = NodeScores(cut_network(network, layer.name), torch.tensor([0]))
        scores(torch.randn(1, *scores.input_shape).requires_grad_()).sum().backward()
    assert all(part.training for part in module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.module.modules())
    assert not any(part.training for part in network.module.modules())
    for name, value in module.named_parameters():
        assert torch.equal(value, before[name][0]) and value.requires_grad == before[name][1] and value.grad is None
    assert all(torch.equal(value, statistics[name]) for name, value in module.named_buffers())


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.drop, self.norm = nn.Conv2d(1, 3, 3), nn.Dropout(0.5), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(F.dropout(self.drop(self.conv(x)), 0.5, training=self.training))


def test_dropout_is_off_and_batch_norm_uses_its_running_statistics():
    module = Dropped().train().double()
    module(images(5, (1, 8, 8)))  # moves the running statistics
    network = wrap_network(module, name="dropped", input_shape=(1, 8, 8))
    cut = cut_network(network, "norm", crop=False)
    x = images(4, (1, 8, 8))
    assert torch.equal(cut.module(x), cut.module(x))
    torch.testing.assert_close(cut.module(x)[1:2], cut.module(x[1:2]))
    by_hand = module.conv(x) - module.norm.running_mean[:, None, None]
    by_hand = by_hand / (module.norm.running_var + module.norm.eps).sqrt()[:, None, None]
    torch.testing.assert_close(cut.module(x), by_hand)
