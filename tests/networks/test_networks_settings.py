"""The settings of a network, and the file beside the weights that completes them."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

from raygen.errors import NetworkError, SettingsError
from raygen.networks import NetworkSettings, cut_network, lenet, list_layers, load_network, save_checkpoint


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


def test_the_settings_are_read_without_torch():
    check = "import sys; from raygen.networks import NetworkSettings, Precision; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize(
    ("given", "size", "sides"),
    [(28, 28, (28, 28)), ("28", 28, (28, 28)), ("28x36", "28x36", (28, 36)), ("9x9", 9, (9, 9)), (None, None, None)],
)
def test_an_input_is_square_or_has_a_height_and_a_width(given, size, sides):
    settings = NetworkSettings.parse({"input_size": given}, where="test")
    assert (settings.input_size, settings.sides) == (size, sides)


@pytest.mark.parametrize(
    "given", [0, -1, True, 2.5, "0", "28x", "x28", "28x0", "28x28x3", "28 x 30", "1e3", "", [28, 30]]
)
def test_other_sizes_of_an_input_are_refused_with_what_would_be_right(given):
    with pytest.raises(SettingsError, match="give a side or HEIGHTxWIDTH, such as 224 or 32x64"):
        NetworkSettings.parse({"input_size": given}, where="test")


def test_a_network_with_an_oblong_input_has_oblong_maps():
    settings = NetworkSettings.parse({"network": "squeezenet1_1", "weights": "random", "input_size": "40x72"}, where="")
    network = load_network(settings)
    assert network.input_shape == (3, 40, 72)
    sizes = {layer.name: layer.map_size for layer in list_layers(network)}
    assert sizes["features.0"] == (19, 35)
    assert cut_network(network, "features.0").input_shape == (3, 3, 3)
    assert cut_network(network, "features.12.expand3x3").input_shape == (3, 40, 72)
