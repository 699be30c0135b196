import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from raygen.errors import NetworkError
from raygen.networks import NetworkSettings, list_layers, load_network, wrap_network


def random_network(name, **settings):
    return load_network(NetworkSettings(network=name, weights="random", **settings))


def test_lenets_layers_are_listed_in_order_with_their_receptive_fields():
    found = [
        (layer.name, layer.kind, layer.channels, layer.map_size, layer.receptive_field, layer.stride)
        for layer in list_layers(random_network("lenet"))
    ]
    assert found == [
        ("conv1", "conv", 20, (24, 24), 5, 1),
        ("pool1", "pool", 20, (12, 12), 6, 2),
        ("conv2", "conv", 50, (8, 8), 14, 2),
        ("pool2", "pool", 50, (4, 4), 16, 4),
        ("flatten", "flatten", 800, None, None, None),
        ("ip1", "linear", 500, None, None, None),
        ("relu1", "relu", 500, None, None, None),
        ("ip2", "linear", 10, None, None, None),
    ]


def test_the_last_layer_with_a_channel_for_each_class_holds_the_classes():
    assert [layer.name for layer in list_layers(random_network("lenet")) if layer.is_classes] == ["ip2"]
    squeezenet = random_network("squeezenet1_1", input_size=64)
    assert [layer.name for layer in list_layers(squeezenet) if layer.is_classes] == ["classifier.1"]
    nameless = random_network("lenet", arguments={"classes": 3})
    assert not any(layer.is_classes for layer in list_layers(nameless))


class Everything(nn.Module):
    """Functional steps, a layer that runs twice, a layer that never runs, and an output that is no image."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Conv2d(1, 1, 1)
        self.last = nn.Linear(4, 2)
        self.dilated = nn.Conv2d(1, 4, 3, dilation=2, padding=2)
        self.strip = nn.Conv2d(4, 4, (1, 5), padding=(0, 2))
        self.relu = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(4)
        self.tokens = nn.Flatten(2)

    def forward(self, x):
        x = self.relu(F.max_pool2d(self.dilated(x), 2))
        x = x + self.relu(self.norm(self.strip(x)))
        self.tokens(x)
        return self.last(x.mean((2, 3)))


def test_receptive_fields_follow_dilation_functions_and_joins():
    network = wrap_network(Everything(), name="all", input_shape=(1, 32, 32))
    layers = {layer.name: layer for layer in list_layers(network)}
    assert list(layers) == ["dilated", "relu", "strip", "norm", "last"]
    fields = {name: (layer.receptive_field, layer.stride) for name, layer in layers.items()}
    # 3x3 dilated by 2 sees 5; pooling adds 1; five columns at a stride of 2 add 8.
    assert fields == {"dilated": (5, 1), "relu": (6, 2), "strip": (14, 2), "norm": (14, 2), "last": (None, None)}


def test_a_field_wider_than_the_input_is_none():
    network = wrap_network(Everything(), name="all", input_shape=(1, 10, 10))
    layers = {layer.name: layer for layer in list_layers(network)}
    assert layers["relu"].receptive_field == 6 and layers["strip"].receptive_field is None


def hooks(module):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_no_hook_stays_on_a_module_even_where_the_forward_fails():
    network = random_network("lenet")
    list_layers(network)
    assert hooks(network.module) == 0
    broken = wrap_network(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(7, 2)), name="broken", input_shape=(1, 8, 8))
    with pytest.raises(NetworkError, match=r"its forward fails .RuntimeError"):
        list_layers(broken)
    assert hooks(broken.module) == 0


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(3, 5, 3)

    def forward(self, x):
        x = self.act(self.first(x))
        if x.sum() > 1e9:
            raise RuntimeError
        return self.second(x)


def test_layers_of_a_network_that_cannot_be_traced_have_no_receptive_field():
    layers = list_layers(wrap_network(Untraceable(), name="dynamic", input_shape=(1, 9, 9)))
    assert [(layer.name, layer.channels, layer.receptive_field) for layer in layers] == [
        ("first", 3, None),
        ("act", 3, None),
        ("second", 5, None),
    ]


def test_channels_that_lie_last_are_not_taken_for_maps():
    module = torchvision.models.convnext.ConvNeXt(
        [torchvision.models.convnext.CNBlockConfig(8, None, 2)], num_classes=3
    )
    network = wrap_network(module, name="convnext", input_shape=(3, 32, 32))
    for layer in list_layers(network):
        assert layer.channels in (3, 8), layer
        assert layer.map_size in (None, (8, 8), (1, 1)), layer


@pytest.mark.parametrize(
    "name", ["resnet18", "googlenet", "densenet121", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf"]
)
def test_branched_networks_are_traced_and_end_with_their_classes(name):
    layers = list_layers(random_network(name, input_size=64))
    assert layers[-1].is_classes and layers[-1].kind == "linear" and layers[-1].channels == 1000
    assert layers[0].kind == "conv" and layers[0].receptive_field in (3, 7)
    assert all(torch.Size(layer.map_size or (1, 1)).numel() > 0 for layer in layers)
