"""What a file of weights asks for is no wish of the user: it names networks that are built in, within bounds."""

import json
import pickle
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from raygen.errors import NetworkError
from raygen.networks import NetworkSettings, known_networks, lenet, load_network, save_checkpoint, wrap_network
from raygen.networks.zoo.factories import build_network

INPUT = {"input_shape": [1, 28, 28], "mean": [0.0], "std": [1.0]}
FACTORY = """
from pathlib import Path

from raygen.networks import lenet

Path("imported").touch()


def net(classes=10):
    return lenet(classes)
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write weights with what a checkpoint's header says, and what a file beside them says; return their path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "theirs.py").write_text(FACTORY)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)

    def write(header=None, beside=None, kind=".safetensors"):
        torch.manual_seed(3)
        path = tmp_path / f"net{kind}"
        if kind == ".safetensors":
            metadata = None if header is None else {"raygen": json.dumps({**INPUT, **header})}
            save_file(lenet().state_dict(), path, metadata)
        else:
            torch.save(lenet().state_dict(), path)
        if beside is not None:
            (tmp_path / "net.yaml").write_text(yaml.safe_dump(beside))
        return path

    yield write
    sys.modules.pop("theirs", None)


def load(path, **settings):
    return load_network(NetworkSettings(weights=str(path), **settings))


FACTORIES = ["os:system", "theirs:net", "torchvision.models:resnet18", ":", "theirs:", ":net", "a;b:c"]


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("where", ["header", "beside .safetensors", "beside .pt"])
def test_a_factory_that_a_file_asks_for_is_not_imported(files, tmp_path, name, where):
    asked = {"network": name, "arguments": {"command": f"touch {tmp_path}/ran"}}
    kind = where.removeprefix("beside ")
    path = files(header=asked) if where == "header" else files(beside=asked, kind=kind)
    with pytest.raises(NetworkError, match=r"net\.(safetensors|pt).*: asks for the factory .* --network ") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "imported").exists()
    # Other settings that the user gives are no name of a factory.
    with pytest.raises(NetworkError):
        load(path, arguments={}, input_size=28, channels=1)
    assert not (tmp_path / "imported").exists()


def test_a_file_and_its_header_together_ask_in_vain(files, tmp_path):
    path = files(header={"network": "theirs:net"}, beside={"network": "theirs:net"})
    with pytest.raises(NetworkError, match="asks for the factory theirs:net"):
        load(path)
    with pytest.raises(NetworkError, match="checkpoint with network theirs:net, asked for was lenet"):
        load(path, network="lenet")
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("how", ["header", "beside"])
def test_a_factory_that_the_user_names_is_built_as_the_file_describes_it(files, tmp_path, how):
    path = files(**{how: {"network": "theirs:net", "arguments": {"classes": 10}}})
    network = load(path, network="theirs:net", input_size=28)
    assert network.name == "theirs:net"
    assert (tmp_path / "imported").exists()
    assert torch.equal(network.module.state_dict()["conv1.weight"], load_file(path)["conv1.weight"])
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("name", ["lenet", "resnet18"])
def test_a_file_may_ask_for_a_network_that_is_built_in(tmp_path, name):
    module = build_network(name, {})
    path = tmp_path / "net.safetensors"
    side = {"lenet": (1, 28), "resnet18": (3, 224)}[name]
    described = {
        "network": name,
        "input_shape": [side[0], side[1], side[1]],
        "mean": [0.0] * side[0],
        "std": [1.0] * side[0],
    }
    save_file(module.state_dict(), path, {"raygen": json.dumps(described)})
    assert load(path).name == name


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        ("resnet18", {"pretrained": True}, "arguments hold pretrained"),
        ("resnet18", {"weights": "DEFAULT"}, "asks for weights = 'DEFAULT'; give --arguments yourself"),
        ("resnet18", {"weights": None}, "arguments hold weights"),
        ("resnet18", {"norm_layer": "os.system"}, "asks for norm_layer"),
        ("resnet18", {"num_classes": 10**9}, r"more than the .* numbers that the file can hold"),
        ("resnet50", {"width_per_group": 10**6}, r"more than the .* numbers that the file can hold"),
        ("lenet", {"classes": 10**12}, r"more than the .* numbers that the file can hold"),
        ("lenet", {"classes": 2**80}, "arguments holds a number of more than 64 bits"),
        ("lenet", {"classes": 16**5000}, "arguments holds a number of more than 64 bits"),
        ("mobilenet_v2", {"inverted_residual_setting": [[1, 16, 10**9, 1]]}, "asks for inverted_residual_setting"),
        ("regnet_y_128gf", {}, r"more than the .* numbers that the file can hold"),
    ],
)
def test_what_a_file_asks_of_a_built_in_network_is_within_bounds(files, network, arguments, message):
    path = files(kind=".pt")
    # In hexadecimal digits Python reads a number of any length.
    lines = [f"{key}: {hex(value) if type(value) is int else json.dumps(value)}" for key, value in arguments.items()]
    path.with_suffix(".yaml").write_text(f"network: {network}\narguments: {{{', '.join(lines)}}}\n")
    with pytest.raises(NetworkError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["header", "beside"])
def test_a_file_does_not_ask_for_a_huge_input_but_the_user_may(files, how):
    shape = {"input_shape": [1, 200_000, 200_000], "network": "lenet"} if how == "header" else {"input_size": 200_000}
    path = files(**{how: shape})
    with pytest.raises(NetworkError, match="asks for an input of 1x200000x200000; give --input-size yourself"):
        load(path)
    assert load(path, input_size=28).input_shape == (1, 28, 28)


def test_the_bound_changes_no_weight():
    for name in ("lenet", "resnet18", "googlenet", "mobilenet_v3_small", "regnet_y_400mf"):
        assert name in known_networks()
        free, bounded = build_network(name, {}, 5), build_network(name, {}, 5, most=10**9)
        for key, value in free.state_dict().items():
            assert torch.equal(value, bounded.state_dict()[key])


@pytest.mark.parametrize("name", ["torch", "sklearn", "theirs"])
def test_the_working_directory_is_searched_last_and_only_for_what_the_user_names(files, tmp_path, name):
    """A torch.py in the working directory is not torch, while a package of the user is found there."""
    files()
    (tmp_path / f"{name}.py").write_text(FACTORY)
    before = list(sys.path)
    if name == "theirs":
        assert load_network(NetworkSettings(network="theirs:net", weights="random", input_size=28)).name == "theirs:net"
    else:
        with pytest.raises(NetworkError, match=f"{name} has no 'net'"):
            load_network(NetworkSettings(network=f"{name}:net", weights="random", input_size=28))
        assert not (tmp_path / "imported").exists()
    assert sys.path == before


def test_a_network_of_a_users_class_is_read_where_the_working_directory_is_another(tmp_path):
    (tmp_path / "own_blocks.py").write_text(
        "from torch import nn\nclass Own(nn.Sequential):\n    pass\n"
        "def net():\n    return Own(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))\n"
    )
    write = (
        "import pickle; from raygen.networks import NetworkSettings, load_network\n"
        "network = load_network(NetworkSettings(network='own_blocks:net', weights='random', input_size=8))\n"
        "open('network.pickle', 'wb').write(pickle.dumps(network)); print(network.weights_hash)"
    )
    read = (
        "import pickle, sys; before = list(sys.path)\n"
        f"network = pickle.loads(open({str(tmp_path / 'network.pickle')!r}, 'rb').read())\n"
        "assert sys.path == before; print(network.weights_hash)"
    )
    (tmp_path / "elsewhere").mkdir()
    said = [
        subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, check=True, capture_output=True).stdout
        for code, folder in ((write, tmp_path), (read, tmp_path / "elsewhere"))
    ]
    assert said[0] == said[1] != b""


def test_a_network_of_no_users_class_is_read_without_a_search():
    network = wrap_network(lenet(), name="lenet", input_shape=(1, 28, 28))
    before = list(sys.path)
    again = pickle.loads(pickle.dumps(network))
    assert (again.weights_hash, sys.path) == (network.weights_hash, before)


def test_a_call_that_the_user_named_in_this_process_may_be_asked_for_again_and_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named_once.py").write_text(
        "from torch import nn\ndef net(width=2):\n    return nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten())\n"
    )
    for width in (2, 3):
        module = nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten())
        description = {"network": "named_once:net", "arguments": {"width": width}, "input_shape": [1, 3, 3],
                       "mean": [0.0], "std": [1.0]}  # fmt: skip
        save_checkpoint(tmp_path / f"{width}.safetensors", module, description)
    weights = str(tmp_path / "2.safetensors")
    with pytest.raises(NetworkError, match="which would run code that you did not name"):
        load_network(NetworkSettings(weights=weights))
    load_network(NetworkSettings(network="named_once:net", arguments={"width": 2}, weights=weights))
    load_network(NetworkSettings(weights=weights))
    with pytest.raises(NetworkError, match="which would run code that you did not name"):
        load_network(NetworkSettings(weights=str(tmp_path / "3.safetensors")))


TOOL = """
import pathlib

from raygen.networks import lenet


def net(classes=10, *, source=None, pretrained=False, sizes=()):
    if source or pretrained:
        pathlib.Path("called").touch()
    return lenet(classes)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        {"source": "hf-hub:theirs/model"},
        {"source": ["a"]},
        {"source": {"a": 1}},
        {"classes": 10, "source": {"1": [[{"b": None}]]}},
        {"pretrained": True},
    ],
)
@pytest.mark.parametrize("how", ["header", "beside"])
def test_a_file_gives_no_texts_to_a_factory_that_the_user_named(files, tmp_path, monkeypatch, arguments, how):
    monkeypatch.setattr("raygen.networks.zoo.asked._NAMED", set())
    path = files(**{how: {"network": "theirs:net", "arguments": arguments}})
    (tmp_path / "theirs.py").write_text(TOOL)
    with pytest.raises(
        NetworkError, match=r"asks theirs:net for (source|pretrained) = .*; give --arguments '{"
    ) as caught:
        load(path, network="theirs:net", input_size=28)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "called").exists()
    load(path, network="theirs:net", arguments=arguments, input_size=28)
    assert (tmp_path / "called").exists()
    load(path, network="theirs:net", input_size=28)  # the same call, which the user has named


def test_a_file_gives_numbers_to_a_factory_that_the_user_named(files, tmp_path):
    path = files(
        header={"network": "theirs:net", "arguments": {"classes": 10, "sizes": [1, [2.5, None]], "source": None}}
    )
    (tmp_path / "theirs.py").write_text(TOOL)
    assert load(path, network="theirs:net", input_size=28).name == "theirs:net"


@pytest.mark.parametrize("elsewhere", ["/etc/hostname", "../names.txt", "below/../../names.txt"])
def test_a_file_asks_for_no_class_names_elsewhere(files, tmp_path, elsewhere):
    (tmp_path.parent / "names.txt").write_text("\n".join("abcdefghij"))
    path = files(beside={"class_names": elsewhere})
    with pytest.raises(
        NetworkError, match=r"net.yaml beside the weights: asks for the class names in .*--class-names "
    ):
        load(path)
    assert load(path, class_names=str(tmp_path.parent / "names.txt")).class_names == tuple("abcdefghij")


@pytest.mark.parametrize(
    "wrong", [{"mean": [1e30]}, {"mean": [-1e300]}, {"std": [1e30]}, {"std": [1e-30]}, {"std": [5e-324]}]
)
@pytest.mark.parametrize("how", ["header", "beside"])
def test_a_mean_and_a_divisor_that_lead_beyond_float32_are_refused(files, wrong, how):
    path = files(**{how: {"network": "lenet", **wrong}})
    with pytest.raises(NetworkError, match=r"network lenet: mean .* and std .* lead images beyond what float32 holds"):
        load(path)


LAZY = """
from torch import nn


def net():
    return nn.Sequential(nn.LazyConv2d(2, 3), nn.Flatten(), nn.LazyLinear(2))
"""


@pytest.mark.parametrize("shape", [[1, 300_000, 300_000], [-1, 8, 8], [0, 8, 8]])
def test_lazy_layers_take_no_size_from_a_huge_input_that_a_file_asks_for(files, tmp_path, shape):
    path = files(header={"network": "theirs:net", "input_shape": shape})
    (tmp_path / "theirs.py").write_text(LAZY)
    with pytest.raises(NetworkError, match=r"asks for an input of 1x300000x300000|input shape"):
        load(path, network="theirs:net")
