"""Values of a kind that nobody asked for, and devices that are not there: one line, status 2, nothing written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from raygen.networks import NetworkSettings, load_network

Call = Callable[..., Any]

SAMPLE = ("sample", "--out", "run", "--nodes", "conv1:0", "--weights", "random", "--local")


def check_refused(said: Any, start: str) -> None:
    assert said.status == 2, said
    assert said.err.startswith(f"raygen: {start}"), said.err
    assert said.err.count("\n") == 1, said.err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("preset: [quick]", "bad.yaml and options: preset = ['quick'] is not possible; "),
        ("preset: {a: 1}", "bad.yaml and options: preset = {'a': 1} is not possible; "),
        ("preset: 3", "bad.yaml and options: preset = 3 is not possible; "),
        ("? 0x" + "f" * 5000 + "\n: 1", "bad.yaml and options: a name holds a number of more than 64 bits"),
        ("chains: !!int ''", "bad.yaml: is no YAML (a value is not what its tag says"),
        ("chains: !!bool maybe", "bad.yaml: is no YAML (a value is not what its tag says"),
        ("chains: 1" + ":1" * 100_000, "bad.yaml: is no YAML (it holds a number of more than 10,000 digits)"),
    ],
    ids=lambda text: text[:20],
)
def test_values_and_names_of_any_kind_in_a_configuration_are_refused_in_one_line(
    text: str, start: str, call: Call
) -> None:
    Path("bad.yaml").write_text(text)
    check_refused(call(*SAMPLE, "--config", "bad.yaml"), start)


@pytest.mark.parametrize("layers", [{1: {}}, {None: {}}, {1.5: {"step_size": 0.1}}, {True: 3}])
def test_a_profile_whose_layers_have_no_names_is_refused(layers: dict[object, object], call: Call) -> None:
    weights_hash = load_network(NetworkSettings(weights="random")).weights_hash
    document = {"network": "lenet", "weights_hash": weights_hash, "layers": layers}
    Path("profile.yaml").write_text(yaml.safe_dump(document))
    check_refused(call(*SAMPLE, "--profile", "profile.yaml"), "profile.yaml: is no profile")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("more", [("--gpus", "1"), ("--gpus", "0.5"), ("--gpus", "1", "--plan")])
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_loaded(more: tuple[str, ...], call: Call) -> None:
    check_refused(call(*SAMPLE, *more), "gpus: this machine has no GPU; give --gpus 0, or a machine that has one")
    absent = call("sample", "--out", "run", "--nodes", "conv1:0", "--weights", "absent.pt", "--local", *more)
    check_refused(absent, "gpus: this machine has no GPU")
