"""Weights as training programs leave them, and the file beside them that says what they are."""

import json

import pytest
import torch
import yaml
from torch import nn

from raygen.errors import NetworkError, WeightsError
from raygen.networks import NetworkSettings, hash_weights, lenet, load_network, save_checkpoint


def load(weights, **settings):
    return load_network(NetworkSettings(weights=str(weights), **settings))


@pytest.fixture
def module():
    torch.manual_seed(1)
    return lenet(3)


ARGUMENTS = {"arguments": {"classes": 3}}
FACTS = {
    "network": "lenet",
    "arguments": {"classes": 3},
    "input_size": 28,
    "channels": 1,
    "mean": [0.5],
    "std": [2.0],
    "class_names": ["one", "two, or too", "three"],
}


def named(values, prefix):
    return {prefix + name: value for name, value in values.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda plain: {"model_state_dict": plain, "optimizer": {"lr": 0.1}},
        lambda plain: {"state_dict": named(plain, "_orig_mod.module.")},
        lambda plain: {"model": {"state_dict": named(plain, "module._orig_mod.")}},
        lambda plain: {"net": plain, "epoch": 7, "arguments": {"lr": 0.1}},
        lambda plain: {"state_dict": named(plain, "model.")},
        lambda plain: named(plain, "module.backbone."),
    ],
)
def test_what_training_programs_wrap_around_a_state_dict_is_taken_off(tmp_path, module, wrap):
    torch.save(wrap(module.state_dict()), tmp_path / "w.pt")
    assert load(tmp_path / "w.pt", **ARGUMENTS).weights_hash == hash_weights(module.state_dict())


def test_two_networks_in_one_file_are_not_guessed_between(tmp_path, module):
    torch.save({"generator": module.state_dict(), "critic": module.state_dict()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="entry 'generator' is a"):
        load(tmp_path / "w.pt", **ARGUMENTS)


def test_a_file_whose_names_do_not_fit_is_refused_with_its_own_names(tmp_path):
    torch.save(nn.Sequential(nn.Linear(2, 2)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"8 missing: conv1.weight, .*; 2 unexpected: 0.weight, 0.bias"):
        load(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["net.pt.yaml", "net.pt.json", "net.yaml", "net.yml", "net.json"])
def test_a_file_beside_the_weights_says_all_about_them(tmp_path, module, name):
    torch.save(module.state_dict(), tmp_path / "net.pt")
    text = json.dumps(FACTS) if name.endswith("json") else yaml.safe_dump(FACTS)
    (tmp_path / name).write_text(text)
    network = load(tmp_path / "net.pt")
    assert (network.name, network.input_shape) == ("lenet", (1, 28, 28))
    assert (network.mean, network.std) == ((0.5,), (2.0,))
    assert network.class_names == ("one", "two, or too", "three")


def test_options_go_before_that_file_and_it_before_the_checkpoint(tmp_path, module):
    path = tmp_path / "net.safetensors"
    description = {
        **{key: FACTS[key] for key in ("network", "arguments")},
        "input_shape": [1, 28, 28],
        "mean": [0.0],
        "std": [1.0],
        "class_names": ["a", "b", "c"],
    }
    save_checkpoint(path, module, description)
    (tmp_path / "net.yaml").write_text("mean: [0.25]\nclass_names: [x, y, z]\n")
    (tmp_path / "names.txt").write_text("p\nq\nr\n")
    network = load(path, std=(3.0,))
    assert (network.mean, network.std, network.class_names) == ((0.25,), (3.0,), ("x", "y", "z"))
    network = load(path, mean=(0.75,), class_names=str(tmp_path / "names.txt"))
    assert (network.mean, network.std, network.class_names) == ((0.75,), (1.0,), ("p", "q", "r"))


def test_class_names_may_lie_in_a_file_of_their_own(tmp_path, module):
    torch.save(module.state_dict(), tmp_path / "net.pt")
    (tmp_path / "net.yaml").write_text("arguments: {classes: 3}\nclass_names: words.txt\n")
    (tmp_path / "words.txt").write_text("p\nq\nr\n")
    assert load(tmp_path / "net.pt").class_names == ("p", "q", "r")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("networks: lenet", r"net\.yaml beside the weights: unknown setting 'networks'; did you mean network"),
        ("std: [0]", r"net\.yaml beside the weights: std\.0 = 0 is not possible"),
        ("class_names: [a]", r"class_names beside .*net\.pt: holds 1 names for 3 outputs; list 3 names"),
        ("class_names: gone.txt", r"gone\.txt: cannot be read"),
        ("- lenet", r"net\.yaml beside the weights: holds a list; give lines of the form name: value"),
        ("a: [", r"net\.yaml beside the weights: cannot be read"),
        ("network: alexnte", "unknown network; did you mean alexnet"),
    ],
)
def test_a_file_beside_the_weights_that_is_wrong_is_refused_in_one_line(tmp_path, module, text, message):
    torch.save(module.state_dict(), tmp_path / "net.pt")
    (tmp_path / "net.yaml").write_text(text)
    with pytest.raises(NetworkError, match=message) as caught:
        load(tmp_path / "net.pt", **ARGUMENTS)
    assert "\n" not in str(caught.value)


def test_the_network_that_options_name_is_not_another_one(tmp_path, module):
    path = tmp_path / "net.safetensors"
    save_checkpoint(
        path, module, {**{k: FACTS[k] for k in ("network", "arguments", "mean", "std")}, "input_shape": [1, 28, 28]}
    )
    (tmp_path / "net.yaml").write_text("network: alexnet")
    with pytest.raises(NetworkError, match="checkpoint with network lenet, asked for was alexnet"):
        load(path)
