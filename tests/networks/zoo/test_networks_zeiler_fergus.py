"""ZeilerFergusNet (fast) as in figure 3 of Zeiler & Fergus (2013): sizes, order, and cuts that are exact."""

import pytest
import torch

from raygen.networks import (
    NetworkSettings,
    cut_for,
    cut_network,
    list_layers,
    load_network,
    parse_nodes,
    score_nodes,
    zeiler_fergus,
)


@pytest.fixture(scope="module")
def network():
    return load_network(NetworkSettings(network="zeiler_fergus", weights="random"), seed=1)


@pytest.fixture(scope="module")
def layers(network):
    return {layer.name: layer for layer in list_layers(network)}


def noise(network):
    return 60 * torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(0))


def test_the_layers_run_in_the_papers_order(layers):
    assert list(layers) == [
        "conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2", "conv3", "relu3", "conv4", "relu4",
        "conv5", "relu5", "pool5", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8",
    ]  # fmt: skip
    assert layers["fc8"].is_classes and layers["fc8"].channels == 1000
    assert zeiler_fergus(7).fc8.out_features == 7


def test_the_maps_are_those_of_figure_3(network, layers):
    assert network.input_shape == (3, 224, 224)
    maps = {name: (layer.channels, layer.map_size) for name, layer in layers.items() if layer.kind in ("conv", "pool")}
    assert maps == {
        "conv1": (96, (110, 110)),
        "pool1": (96, (55, 55)),
        "conv2": (256, (26, 26)),
        "pool2": (256, (13, 13)),
        "conv3": (384, (13, 13)),
        "conv4": (384, (13, 13)),
        "conv5": (256, (13, 13)),
        "pool5": (256, (6, 6)),
    }
    # 1 + 6, + 2 * 2, + 4 * 4, + 8 * 2, then 16 * 2 a convolution of 3x3.
    assert [layers[f"conv{number}"].receptive_field for number in range(1, 6)] == [7, 27, 75, 107, 139]


def test_the_parameters_are_counted_as_by_hand(network):
    parts = network.module.named_children()
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts}
    assert {name: count for name, count in counts.items() if count} == {
        "conv1": 96 * (3 * 49 + 1),
        "conv2": 256 * (96 * 25 + 1),
        "conv3": 384 * (256 * 9 + 1),
        "conv4": 384 * (384 * 9 + 1),
        "conv5": 256 * (384 * 9 + 1),
        "fc6": 4096 * (9216 + 1),
        "fc7": 4096 * (4096 + 1),
        "fc8": 1000 * (4096 + 1),
    }
    assert sum(counts.values()) == 62_357_608


def test_weights_start_as_in_the_paper(network):
    for name in ("conv1", "conv5", "fc7"):
        layer = network.module.get_submodule(name)
        assert float(layer.weight.std()) == pytest.approx(0.01, rel=0.03)
        assert not layer.bias.any()


def test_the_input_is_pixels_of_255_less_the_mean(network):
    pixels = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (network.mean, network.std))
    want = 255 * pixels - torch.tensor([122.67891434, 116.66876762, 104.00698793])[:, None, None]
    torch.testing.assert_close((pixels - mean) / std, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", ["conv1", "norm1", "conv2", "conv5"])
def test_a_crop_is_exact_where_no_padding_is_seen(network, layer, crop_corner):
    cut = cut_network(network, layer)
    assert cut.cropped
    x = noise(network)
    (top, left), (height, width) = crop_corner(network, cut), cut.input_shape[1:]
    want = cut_network(network, layer, crop=False).module(x)[:, :, cut.position[0], cut.position[1]]
    got = cut.module(x[:, :, top : top + height, left : left + width])[:, :, 0, 0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_nodes_of_convolutions_and_classes_are_scored(network, layers):
    x = noise(network)
    for text, layer in (("conv5:7@12,0", "conv5"), ("fc8:[3-5]", "fc8")):
        (node,) = parse_nodes(text, network, list(layers.values()))
        response = cut_network(network, layer, crop=False).module(x)[0]
        want = response[7, 12, 0] if layer == "conv5" else response[3] - response[5]
        x.requires_grad_(True)
        score = score_nodes(cut_for(network, node), [node])(x)[0]
        torch.testing.assert_close(score.detach(), want, rtol=1e-4, atol=1e-5 * float(response.abs().max()))
        (gradient,) = torch.autograd.grad(score, x)
        assert gradient.any() and gradient.isfinite().all()
        x = x.detach()
