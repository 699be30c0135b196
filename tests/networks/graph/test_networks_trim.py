"""One response of a map at full size: what is left out on the way changes neither it nor its gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_blocks import Block, blocks
from torch import nn

from raygen.networks import NetworkSettings, NodeScores, cut_network, load_network, wrap_network
from raygen.networks.graph.rewriting import trim_graph


def assert_the_same(cut, position):
    x = torch.randn(2, *cut.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    want = cut.module.double()(x)[:, :, position[0], position[1]]
    trimmed = trim_graph(cut.module, cut.input_shape, position).double()
    got = trimmed(x)
    assert got.shape[2:] == (1, 1)
    scale = float(want.detach().abs().max())
    torch.testing.assert_close(got[:, :, 0, 0], want, rtol=1e-8, atol=1e-10 * scale)
    wanted, gradient = (torch.autograd.grad(value.sum(), x)[0] for value in (want, got))
    torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9 * float(wanted.abs().max()))
    scores = NodeScores(cut, torch.tensor([0, cut.channels - 1]), position)
    own = torch.stack([want[0, 0], want[1, -1]])
    torch.testing.assert_close(scores(x), own, rtol=1e-8, atol=1e-10 * scale)


CASES = [
    ("squeezenet1_1", "features.11", 96),
    ("resnet18", "layer4.1.conv2", 128),
    ("googlenet", "inception4b.branch4.1.conv", 96),
    ("inception_v3", "Mixed_6b.branch7x7_2.conv", 128),
    ("densenet121", "features.denseblock3.denselayer2.conv2", 64),
    ("efficientnet_b0", "features.4.0.block.3.0", 96),
    ("shufflenet_v2_x0_5", "stage4.1.branch2.5", 96),
    ("convnext_tiny", "features.5.0", 64),
    ("squeezenet1_0", "classifier.1", 96),
]


@pytest.mark.parametrize(("name", "layer", "side"), CASES)
def test_a_trimmed_response_is_the_same_at_the_centre_and_in_a_corner(name, layer, side):
    network = load_network(NetworkSettings(network=name, weights="random", input_size=side))
    cut = cut_network(network, layer, crop=False)
    rows, columns = cut.map_size
    for position in ((rows // 2, columns // 2), (0, columns - 1)):
        assert_the_same(cut, position)


@settings(max_examples=25, deadline=None)
@given(blocks(), st.integers(40, 47), st.data())
def test_whatever_the_blocks_and_the_position_a_trimmed_response_is_the_same(drawn, side, data):
    torch.manual_seed(0)
    module = nn.Sequential(*(Block(*block) for block in drawn), nn.Conv2d(4, 3, 3, padding=1))
    network = wrap_network(module, name="random", input_shape=(4, side, side))
    cut = cut_network(network, str(len(drawn)), crop=False)
    position = tuple(data.draw(st.integers(0, size - 1)) for size in cut.map_size)
    assert_the_same(cut, position)


def test_other_paddings_and_steps_that_are_not_understood_stay_whole():
    class Rolled(nn.Module):
        def forward(self, x):
            return torch.roll(x, 3, 2)

    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, padding_mode="reflect"),
        Rolled(),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.Conv2d(3, 2, 3, padding="same", dilation=2),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.Conv2d(2, 2, 1, padding=1),
    )
    network = wrap_network(module, name="odd", input_shape=(1, 14, 14))
    cut = cut_network(network, "5", crop=False)
    for position in ((0, 0), (3, 4), (1, 9), (8, 8)):
        assert_the_same(cut, position)


def test_late_layers_compute_only_what_the_centre_needs():
    network = load_network(NetworkSettings(network="resnet18", weights="random"))
    cut = cut_network(network, "layer4.1.conv2", crop=False)
    sizes = {}

    def note(layer, inputs, output):
        sizes[id(layer)] = tuple(output.shape[2:])

    trimmed = trim_graph(cut.module, cut.input_shape, (3, 3))
    for layer in trimmed.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(note)
    trimmed(torch.zeros(1, *cut.input_shape))
    # The last two convolutions, and those of the block before, of which the first has stride 2.
    assert sorted(sizes.values())[:4] == [(1, 1), (3, 3), (5, 5), (5, 5)]
