from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raygen.networks import (
    NetworkSettings,
    NodeScores,
    cut_for,
    cut_network,
    list_layers,
    load_network,
    parse_nodes,
    score_nodes,
)

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
WEIGHTS = DATA / "squeezenet1_0-imagenet.pt"

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not WEIGHTS.exists(), reason="the shared test data is not beside the checkout"),
]


def test_squeezenet_knows_an_ostrich_by_its_node():
    network = load_network(NetworkSettings(network="squeezenet1_0", weights=str(WEIGHTS)))
    (node,) = parse_nodes("classifier.1:ostrich", network, list_layers(network))
    file = next((DATA / "imagenet-sample" / "n01518878").iterdir())
    image = Image.open(file).convert("RGB")
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32) / 255
    mean, std = np.float32(network.mean), np.float32(network.std)
    x = torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None]
    torch.testing.assert_close(network.pixels(x)[0], torch.from_numpy(pixels).permute(2, 0, 1))
    scores = NodeScores(cut_network(network, node.layer), torch.tensor([node.channel]))
    responses = scores.responses(x)
    assert responses.argmax() == node.channel
    torch.testing.assert_close(scores(x), responses[:, node.channel])
    assert scores.with_precision("bfloat16").responses(x).argmax() == node.channel


@pytest.mark.parametrize(
    ("layer", "side"),
    [("features.0", 7), ("features.3.expand3x3", 19), ("features.5", 35), ("features.9.squeeze", 75),
     ("features.12.expand1x1", 123), ("features.12", 155)],
)  # fmt: skip
def test_trained_crops_equal_the_whole_network_to_float32_round_off(layer, side, crop_corner):
    network = load_network(NetworkSettings(network="squeezenet1_0", weights=str(WEIGHTS)))
    cut, whole = cut_network(network, layer), cut_network(network, layer, crop=False)
    assert cut.input_shape == (3, side, side) and cut.map_size == (1, 1)
    x = torch.randn(4, *network.input_shape, generator=torch.Generator().manual_seed(0))
    top, left = crop_corner(network, cut)
    got = cut.module(x[:, :, top : top + side, left : left + side])[:, :, 0, 0]
    response = whole.module(x)
    want = response[:, :, cut.position[0], cut.position[1]]
    assert float((got - want).abs().max()) <= 2e-6 * float(response.abs().max())


def test_a_difference_of_classes_is_the_difference_of_their_logits():
    network = load_network(NetworkSettings(network="squeezenet1_0", weights=str(WEIGHTS)))
    nodes = parse_nodes("classifier.1:[ostrich - orange] classifier.1:ostrich", network, list_layers(network))
    assert [str(node) for node in nodes] == ["classifier.1:[9-950]", "classifier.1:9"]
    x = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(0))
    # The network's own logits are those of a ReLU of the map, then its mean: here the mean of the map itself.
    logits = cut_network(network, "classifier.1").module(x).mean((2, 3))
    scores = score_nodes(cut_for(network, nodes[0]), nodes)(x)
    torch.testing.assert_close(scores, torch.stack([logits[0, 9] - logits[0, 950], logits[1, 9]]), rtol=1e-4, atol=1e-4)
