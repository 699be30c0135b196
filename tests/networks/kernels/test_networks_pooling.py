"""Max-pooling in pairs is the library's, values and gradients, and is put in place of it where it may be."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from raygen.networks import LeNet
from raygen.networks.kernels.pooling import PairedMaxPool2d, pool_in_pairs


def both(x, generator):
    """Values and gradients of the library's pooling, and of that in pairs."""
    found = []
    gradient = None
    for layer in (nn.MaxPool2d(2, 2), PairedMaxPool2d(2, 2)):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        gradient = torch.randn(y.shape, generator=generator).to(y) if gradient is None else gradient
        y.backward(gradient)
        found.append((y.detach(), leaf.grad))
    return found


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 35), st.integers(2, 9), st.integers(2, 9)),
    levels=st.integers(1, 5),
    last=st.booleans(),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    seed=st.integers(0, 2**31),
)
def test_values_and_gradients_are_the_librarys_bit_for_bit_ties_and_odd_sizes_included(
    shape, levels, last, dtype, seed
):
    generator = torch.Generator().manual_seed(seed)
    # Few levels: nearly every window has more than one largest pixel.
    x = torch.randint(1, levels + 1, shape, generator=generator).to(dtype) / 4
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    (value, gradient), (other, other_gradient) = both(x, generator)
    assert torch.equal(value, other)
    assert torch.equal(gradient, other_gradient)


def test_random_images_of_many_channels_give_the_librarys_gradient():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 20, 24, 24, generator=generator).bfloat16().contiguous(memory_format=torch.channels_last)
    (value, gradient), (other, other_gradient) = both(x, generator)
    assert torch.equal(value, other)
    assert torch.equal(gradient, other_gradient)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_finite_number_stays_so(value):
    x = torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16)
    x[0, 0, 1, 0] = value
    assert torch.equal(PairedMaxPool2d(2, 2)(x).isfinite(), nn.MaxPool2d(2, 2)(x).isfinite())


def test_a_network_keeps_its_scores_its_gradients_and_the_names_of_its_weights():
    torch.manual_seed(0)
    plain = LeNet().bfloat16().to(memory_format=torch.channels_last)
    paired = pool_in_pairs(copy.deepcopy(plain))
    assert isinstance(paired.pool1, PairedMaxPool2d)
    assert list(paired.state_dict()) == list(plain.state_dict())
    x = torch.rand(4, 1, 28, 28).bfloat16()
    for network in (plain, paired):
        network(x).float().square().sum().backward()
    assert torch.equal(plain(x), paired(x))
    for one, other in zip(plain.parameters(), paired.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3, 2),
        nn.MaxPool2d(2, 1),
        nn.MaxPool2d(2, 2, padding=1),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.MaxPool2d(2, 2, return_indices=True),
        nn.MaxPool2d((2, 3), 2),
        nn.AvgPool2d(2, 2),
    ],
)
def test_other_poolings_stay_what_they_are(layer):
    network = nn.Sequential(layer)
    assert pool_in_pairs(network)[0] is layer


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.MaxPool2d(2, 2), nn.MaxPool2d((2, 2), (2, 2))])
def test_a_pooling_by_two_is_replaced_in_the_mode_that_it_is_in(layer):
    assert type(pool_in_pairs(copy.deepcopy(layer).eval())) is PairedMaxPool2d
    network = pool_in_pairs(nn.Sequential(nn.Sequential(layer)).eval())
    assert type(network[0][0]) is PairedMaxPool2d
    assert not network[0][0].training
