import copy
import math

import pytest
import torch

from raygen.errors import NetworkError
from raygen.networks import LeNet, hash_weights, lenet, wrap_network


def test_lenet_has_the_parameters_of_caffes_lenet():
    shapes = {name: tuple(value.shape) for name, value in LeNet().state_dict().items()}
    assert shapes == {
        "conv1.weight": (20, 1, 5, 5),
        "conv1.bias": (20,),
        "conv2.weight": (50, 20, 5, 5),
        "conv2.bias": (50,),
        "ip1.weight": (500, 800),
        "ip1.bias": (500,),
        "ip2.weight": (10, 500),
        "ip2.bias": (10,),
    }


def test_lenet_keeps_negative_responses_of_its_convolutions():
    module = LeNet()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0)
        module.conv2.bias.fill_(-1)
        module.ip1.weight.fill_(-1)
        module.ip2.weight.fill_(1)
    # 800 values of -1, weights -1, 500 units, weights 1.
    assert torch.equal(module(torch.zeros(1, 1, 28, 28)), torch.full((1, 10), 800.0 * 500))


def test_lenet_fills_weights_uniformly_within_xavier_bounds_and_biases_with_zero():
    torch.manual_seed(3)
    module = lenet()
    for layer, fan_in in ((module.conv1, 25), (module.conv2, 500), (module.ip1, 800), (module.ip2, 500)):
        bound = math.sqrt(3 / fan_in)
        assert layer.weight.abs().max() <= bound
        assert layer.weight.abs().max() > 0.97 * bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not layer.bias.any()


def test_lenet_is_seeded_by_the_global_generator():
    torch.manual_seed(5)
    first = lenet()
    torch.manual_seed(5)
    assert hash_weights(first.state_dict()) == hash_weights(lenet().state_dict())
    assert hash_weights(first.state_dict()) != hash_weights(lenet().state_dict())


def test_wrapping_freezes_a_copy_and_leaves_the_callers_module_alone():
    module = lenet().train()
    before = hash_weights(module.state_dict())
    network = wrap_network(module, name="mine", input_shape=(1, 28, 28))
    assert module.training and all(parameter.requires_grad for parameter in module.parameters())
    assert not network.module.training and not any(value.requires_grad for value in network.module.parameters())
    with torch.no_grad():
        module.conv1.weight.add_(1)
    assert hash_weights(network.module.state_dict()) == network.weights_hash == before


def test_pixels_undo_the_normalisation_of_each_channel():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    network = wrap_network(torch.nn.Identity(), name="id", input_shape=(3, 2, 2), mean=mean, std=std)
    pixels = torch.rand(4, 3, 2, 2, dtype=torch.float64)
    x = torch.stack([(pixels[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(network.pixels(x), pixels)
    torch.testing.assert_close(network.pixels(x[0]), pixels[0])


@pytest.mark.parametrize(
    "wrong",
    [{"input_shape": (28, 28)}, {"input_shape": (0, 2, 2)}, {"mean": (0.0,)}, {"std": (1.0,)}, {"std": (1, 0, 1)}],
)
def test_parts_that_do_not_fit_are_refused(wrong):
    with pytest.raises(NetworkError, match="network odd: "):
        wrap_network(torch.nn.Identity(), name="odd", **{"input_shape": (3, 2, 2), **wrong})


def test_the_hash_sees_names_dtypes_shapes_and_bytes_but_not_order():
    tensors = {"a": torch.arange(4.0), "b": torch.zeros(2, dtype=torch.int64), "c": torch.tensor(1.0)}
    same = {name: copy.deepcopy(tensors[name]) for name in reversed(tensors)}
    assert hash_weights(tensors) == hash_weights(same)
    others = [
        {**tensors, "a": torch.arange(4.0).reshape(2, 2)},
        {**tensors, "b": torch.zeros(2, dtype=torch.int32)},
        {**tensors, "a": torch.tensor([0.0, 1.0, 2.0, 3.0000002])},
        {"z" if name == "a" else name: value for name, value in tensors.items()},
    ]
    assert len({hash_weights(other) for other in [tensors, *others]}) == 5


def test_the_hash_does_not_depend_on_memory_layout():
    weight = torch.rand(4, 3, 5, 5)
    assert hash_weights({"w": weight}) == hash_weights({"w": weight.to(memory_format=torch.channels_last)})
