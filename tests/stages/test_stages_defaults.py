"""What sampling takes where the user gives nothing else: the size of images, and settings by the kind of the nodes."""

import pytest

from raygen.config import SampleConfig
from raygen.networks import list_layers, parse_nodes
from raygen.stages import load_sampled, sampling_settings


def config(network, nodes, **values):
    return SampleConfig(network=network, weights="random", nodes=nodes, out="unused", **values)


@pytest.mark.parametrize(
    ("network", "side"),
    [
        ("squeezenet1_1", 112),  # its classes are a convolution with a mean behind it
        ("resnet18", 112),  # a mean, then a linear layer
        ("mobilenet_v2", 112),  # the same, with the mean taken by a function
        ("alexnet", 224),  # a linear layer on a map of 6 by 6: another size would stretch it
    ],
)
def test_images_have_half_the_side_where_the_classes_are_means_over_a_map(network, side):
    assert load_sampled(config(network, "x"), "classifier:0").input_shape == (3, side, side)


@pytest.mark.parametrize(
    ("values", "nodes"),
    [({"input_size": 224}, "fc:0"), ({}, "layer1:0@3,4")],
)
def test_a_size_that_is_given_or_that_positions_are_of_is_kept(values, nodes):
    assert load_sampled(config("resnet18", nodes, **values), nodes).input_shape == (3, 224, 224)


def test_small_and_grey_images_keep_their_size():
    assert load_sampled(config("resnet18", "fc:0", input_size=96), "fc:0").input_shape == (3, 96, 96)
    assert load_sampled(config("lenet", "ip2:0"), "ip2:0").input_shape == (1, 28, 28)


@pytest.mark.parametrize(
    ("nodes", "contrast", "views", "budget"),
    [
        ("fc:0", 64.0, 2, None),
        ("conv1:0", 4.0, 0, 2000 - 60),  # 7 pixels
        ("layer1.0.conv1:0", 4.0, 0, 600_000 // 19**2 - 60),
        ("layer4.1.conv2:0", 4.0, 0, 16),  # wider than the input
        ("layer1.0.conv1:0 fc:0", 64.0, 2, None),
    ],
)
def test_settings_are_those_of_the_kind_of_the_nodes_and_the_size_of_their_images(nodes, contrast, views, budget):
    asked = config("resnet18", nodes)
    network = load_sampled(asked, nodes)
    found = sampling_settings(asked, network, parse_nodes(nodes, network, list_layers(network)))
    assert (found.contrast, found.views, found.budget) == (contrast, views, budget)
    assert (found.chains, found.reference, found.sigma) == (4, "power-law", 1.0)
    assert (found.climb, found.warm_up) == ((96, 30) if views else (0, 60))


def test_without_cropping_a_nodes_images_are_whole():
    asked = config("resnet18", "conv1:0", crop=False)
    network = load_sampled(asked, "conv1:0")
    found = sampling_settings(asked, network, parse_nodes("conv1:0", network, list_layers(network)))
    assert found.budget == 16
