"""``raygen nodes``: what is listed of networks of every kind, as a table and as JSON."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]


def listed(call: Call, *arguments: str) -> dict[str, dict[str, Any]]:
    said = call("nodes", "--weights", "random", "--json", *arguments)
    assert (said.status, said.err) == (0, "")
    return {layer["name"]: layer for layer in map(json.loads, said.out.splitlines())}


def test_lenets_layers_have_their_costs_and_its_classes_their_names(call: Call) -> None:
    layers = listed(call)
    assert layers["conv2"] == {
        "name": "conv2",
        "kind": "conv",
        "channels": 50,
        "map_size": [8, 8],
        "receptive_field": 14,
        "stride": 2,
        "is_classes": False,
        "rectified": False,
        "cost": pytest.approx((20 * 25 * 100 + 50 * 500) / (20 * 25 * 576 + 50 * 500 * 64 + 800 * 500 + 5000)),
        "uncropped": "",
        "class_names": [],
    }
    assert layers["ip2"]["class_names"] == [str(digit) for digit in range(10)]
    assert layers["ip2"]["cost"] == 1


@pytest.mark.parametrize(
    ("network", "cropped", "block"),
    [
        ("vgg11", "features.11", None),
        ("resnet18", "layer2.0.conv2", "layer2.0"),
        ("googlenet", "inception3a.branch2.1.conv", "inception3a"),
        ("densenet121", "features.denseblock1.denselayer2.conv1", "features.denseblock1"),
        ("shufflenet_v2_x0_5", "stage2.1.branch2.3", "stage2.1"),
    ],
)
def test_networks_of_every_kind_are_listed(call: Call, network: str, cropped: str, block: str | None) -> None:
    layers = listed(call, "--network", network, "--input-size", "96")
    assert layers[cropped]["receptive_field"] > 1 and 0 < layers[cropped]["cost"] < 0.5
    assert all(0 < layer["cost"] <= 1 for layer in layers.values())
    classes = [layer for layer in layers.values() if layer["is_classes"]]
    assert [(len(layer["class_names"]), layer["cost"]) for layer in classes] == [(1000, 1)]
    assert block is None or layers[block]["kind"] == "block"


def test_layers_are_listed_without_weights(call: Call) -> None:
    said = call("nodes", "--network", "squeezenet1_1", "--json", "--input-size", 64)
    assert (said.status, said.err) == (0, "")
    assert list(map(json.loads, said.out.splitlines())) == list(
        listed(call, "--network", "squeezenet1_1", "--input-size", "64").values()
    )


NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv2 = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        x = self.conv1(x)
        %s
        return self.conv2(x * self.pool(x))
"""


@pytest.mark.parametrize(
    ("line", "first", "second", "told"),
    [
        ("pass", "", "whole image: from pool on", ""),
        (
            "assert x.mean() < 9",
            "whole image: not traced",
            "whole image: not traced",
            "Its forward runs as it is, on whole images, since it cannot be traced: TraceError: ",
        ),
    ],
)
def test_a_layer_that_is_not_cropped_says_why(
    call: Call, line: str, first: str, second: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_net.py").write_text(NETWORK % line)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_net", raising=False)
    said = call("nodes", "--network", "own_net:Net", "--input-size", 24, "--channels", 3)
    assert (said.status, said.err) == (0, "")
    rows = {row.split()[0]: row for row in said.out.splitlines()}
    assert rows["conv1"].endswith(first or "%")
    assert rows["conv2"].endswith(second)
    reasons = [row for row in said.out.splitlines() if row.startswith("Its")]
    assert [row.startswith(told) for row in reasons] == ([True] if told else [])


def test_the_table_shows_costs_and_what_to_know_of_a_layer(call: Call) -> None:
    lines = call("nodes", "--weights", "random").out.splitlines()
    assert lines[0].split() == ["layer", "kind", "channels", "map", "receptive", "field", "stride", "cost"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert rows["conv1"].split()[1:] == ["conv", "20", "24x24", "5", "1", "0.022", "%"]
    assert rows["relu1"].endswith("before its ReLU")
    assert rows["ip2"].endswith("100 %  classes: 0, 1, 2, ...")


def test_classes_are_listed_with_their_channels(call: Call) -> None:
    said = call("nodes", "--network", "squeezenet1_1", "--weights", "random", "--classes")
    assert said.out.splitlines()[10].split() == ["ostrich", "9"]
    said = call("nodes", "--network", "squeezenet1_1", "--weights", "random", "--classes", "--json")
    assert json.loads(said.out.splitlines()[9]) == {"channel": 9, "name": "ostrich"}
