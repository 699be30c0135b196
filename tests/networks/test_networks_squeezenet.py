from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raygen.networks import NetworkSettings, NodeScores, cut_network, list_layers, load_network, parse_nodes

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
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
