"""AlexNet as in the paper: Caffe's layers, its sizes, its normalisation and its order of colours."""

import pytest
import torch
from torch.nn import functional as F

from raygen.networks import NetworkSettings, caffe_alexnet, caffenet, cut_network, list_layers, load_network

ORDER = [
    "conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2", "conv3", "relu3", "conv4", "relu4",
    "conv5", "relu5", "pool5", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8",
]  # fmt: skip


def load(**settings):
    return load_network(NetworkSettings(weights="random", **settings))


def test_caffes_layers_run_in_caffes_order_with_caffes_sizes():
    layers = {layer.name: layer for layer in list_layers(load(network="caffe_alexnet"))}
    assert list(layers) == ORDER
    maps = {name: (layer.channels, layer.map_size) for name, layer in layers.items() if layer.kind in ("conv", "pool")}
    assert maps == {
        "conv1": (96, (55, 55)),
        "pool1": (96, (27, 27)),
        "conv2": (256, (27, 27)),
        "pool2": (256, (13, 13)),
        "conv3": (384, (13, 13)),
        "conv4": (384, (13, 13)),
        "conv5": (256, (13, 13)),
        "pool5": (256, (6, 6)),
    }
    fields = [layers[f"conv{number}"].receptive_field for number in range(1, 6)]
    assert fields == [11, 51, 99, 131, 163]
    assert layers["fc8"].is_classes and layers["fc8"].channels == 1000


def test_caffenet_pools_before_it_normalises():
    names = [layer.name for layer in list_layers(load(network="caffenet"))]
    assert names[:8] == ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2"]


def test_the_parameters_have_the_shapes_of_caffes_blobs():
    shapes = {name: tuple(value.shape) for name, value in caffenet(10).state_dict().items() if "weight" in name}
    assert shapes == {
        "conv1.weight": (96, 3, 11, 11),
        "conv2.weight": (256, 48, 5, 5),
        "conv3.weight": (384, 256, 3, 3),
        "conv4.weight": (384, 192, 3, 3),
        "conv5.weight": (256, 192, 3, 3),
        "fc6.weight": (4096, 9216),
        "fc7.weight": (4096, 4096),
        "fc8.weight": (10, 4096),
    }


def test_the_normalisation_is_caffes():
    # Caffe: x / (1 + alpha / n * sum of squares over n channels) ** beta, with n 5, alpha 1e-4, beta 0.75.
    x = 100 * torch.randn(2, 9, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
    want = x / (1 + 1e-4 / 5 * squares) ** 0.75
    torch.testing.assert_close(caffe_alexnet(2).norm1(x), want)
    assert (want / x).min() < 0.9


def test_the_input_is_pixels_of_255_less_the_mean_and_the_first_layer_sees_blue_first():
    network = load(network="caffe_alexnet", arguments={"classes": 2})
    assert network.input_shape == (3, 227, 227)
    pixels = torch.rand(1, 3, 227, 227, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (network.mean, network.std))
    x = (pixels - mean) / std
    caffes = 255 * pixels[:, [2, 1, 0]] - torch.tensor([104.00698793, 116.66876762, 122.67891434])[:, None, None]
    got = cut_network(network, "conv1", crop=False).module(x)
    torch.testing.assert_close(got, network.module.conv1(caffes), rtol=1e-4, atol=1e-3)
    plain = load(network="caffe_alexnet", arguments={"classes": 2, "bgr": False})
    torch.testing.assert_close(cut_network(plain, "conv1", crop=False).module(x), plain.module.conv1(x))


@pytest.mark.parametrize("layer", ["conv1", "norm1", "conv2", "conv5"])
def test_a_crop_is_exact_through_groups_and_normalisation(layer, crop_corner):
    network = load(network="caffe_alexnet", arguments={"classes": 2})
    cut = cut_network(network, layer)
    assert cut.cropped
    x = 50 * torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(0))
    (top, left), (height, width) = crop_corner(network, cut), cut.input_shape[1:]
    want = cut_network(network, layer, crop=False).module(x)[:, :, cut.position[0], cut.position[1]]
    got = cut.module(x[:, :, top : top + height, left : left + width])[:, :, 0, 0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))
