"""Networks of users that compute in unusual ways: sampled, or refused in one line before anything is written."""

from pathlib import Path

import pytest

NETWORKS = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.a, self.n = kind, nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.a(x)
        if self.kind == "chance":
            x = F.dropout(x, 0.5)
        if self.kind == "statistics":
            x = self.n(x)
        if self.kind == "mean":
            x = x - x.mean(0, keepdim=True)
        if self.kind == "fails" and float(x.detach().abs().max()) > 0:
            raise RuntimeError("no such\\nluck")
        if self.kind == "loud" and float(x.detach().abs().max()) > 100:
            raise RuntimeError("too loud")
        x = x.relu().mean((2, 3))
        return self.fc(x.view(1, -1) if self.kind == "one" else x)
"""


def sample(call, kind, *more):
    Path("users_unusual.py").write_text(NETWORKS)
    network = ["--network", "users_unusual:Net", "--arguments", f"{{kind: {kind}}}", "--weights", "random"]
    chains = ["--chains", "2", "--draws", "2", "--warm-up", "4"]
    return call(
        "sample", "--local", *network, "--input-size", "12", "--nodes", "fc:0-1", *chains, "--out", "run", *more
    )


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("chance", "layer fc of network users_unusual:Net: draws random numbers in evaluation mode"),
        ("statistics", "layer fc of network users_unusual:Net: its response to an image depends on the other images"),
        ("mean", "layer fc of network users_unusual:Net: its response to an image depends on the other images"),
        ("fails", "RuntimeError: no such luck"),
    ],
)
def test_a_network_whose_score_is_no_function_of_one_image_is_refused_before_anything_is_written(call, kind, says):
    said = sample(call, kind)
    assert said.status == 2
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not Path("run").exists()


def test_a_network_that_takes_one_image_at_a_time_is_sampled_so(call):
    said = sample(call, "one")
    assert said.status == 0, said.err
    assert "8 samples of 2 nodes" in said.out + said.err


def test_units_of_a_layer_that_fails_at_the_references_scale_are_set_aside_and_the_others_sampled(call):
    said = sample(call, "loud", "--nodes", "a:0 fc:0", "--sigma", "1000")
    assert said.status == 3
    last = said.err.splitlines()[-1]
    assert (
        "1 of 2 units were set aside, fc-00000; fc-00000: layer fc of network users_unusual:Net: its forward fails"
        in last
    )
    assert "RuntimeError: too loud" in last
    assert call("verify", "--out", "run").status == 3
    assert [path.name for path in Path("run/samples").rglob("*.parquet")] == ["a-00000.parquet"]
