import os
import pickle
import re
import sys

import pytest
import safetensors.torch
import torch
import torchvision

from raygen.errors import NetworkError, WeightsError
from raygen.networks import (
    NetworkSettings,
    hash_weights,
    known_networks,
    lenet,
    load_network,
    read_description,
    save_checkpoint,
)
from raygen.networks.settings import find_metadata
from raygen.networks.zoo.weights import read_tensors

DESCRIPTION = {
    "network": "lenet",
    "arguments": {"classes": 3},
    "input_shape": [1, 28, 28],
    "mean": [0.5],
    "std": [2.0],
    "class_names": ["one", "two", "three"],
}


def load(weights=None, **settings):
    return load_network(NetworkSettings(weights=None if weights is None else str(weights), **settings))


@pytest.fixture
def module():
    torch.manual_seed(1)
    return lenet()


def wrappings(module):
    plain = module.state_dict()
    prefixed = {"module." + name: value for name, value in plain.items()}
    compiled = {"_orig_mod." + name: value for name, value in plain.items()}
    return [plain, {"state_dict": plain, "epoch": 3}, {"model": prefixed}, prefixed, {"state_dict": compiled}]


@pytest.mark.parametrize("kind", range(5))
def test_state_dicts_load_through_wrappers_and_prefixes(tmp_path, module, kind):
    torch.save(wrappings(module)[kind], tmp_path / "w.pt")
    assert load(tmp_path / "w.pt").weights_hash == hash_weights(module.state_dict())


def test_plain_safetensors_load(tmp_path, module):
    safetensors.torch.save_file(module.state_dict(), tmp_path / "w.safetensors")
    assert load(tmp_path / "w.safetensors").weights_hash == hash_weights(module.state_dict())
    assert read_description(tmp_path / "w.safetensors") is None


def test_lenet_divides_pixels_of_255_by_256(tmp_path):
    network = load("random")
    assert network.input_shape == (1, 28, 28)
    assert network.class_names == tuple("0123456789")
    x = torch.full((1, 1, 28, 28), 255 / 256, dtype=torch.float64)
    torch.testing.assert_close(network.pixels(x), torch.ones_like(x))


def test_a_checkpoint_brings_its_network_and_keeps_further_keys(tmp_path):
    path = tmp_path / "new" / "c.safetensors"
    description = {**DESCRIPTION, "log_z": [1.5, -2.0, 0.25]}
    module = lenet(classes=3)
    weights_hash = save_checkpoint(path, module, description)
    assert read_description(path) == description
    assert [file.name for file in path.parent.iterdir()] == ["c.safetensors"]
    network = load(path)
    assert network.weights_hash == weights_hash == hash_weights(module.state_dict())
    assert (network.name, network.mean, network.std) == ("lenet", (0.5,), (2.0,))
    assert network.class_names == ("one", "two", "three")


def test_settings_go_before_the_checkpoint(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, lenet(3), DESCRIPTION)
    (tmp_path / "names.txt").write_text("a b\nc\n\n d \n")
    network = load(path, network="lenet", mean=(0.25,), class_names=str(tmp_path / "names.txt"))
    assert (network.mean, network.std, network.class_names) == ((0.25,), (2.0,), ("a b", "c", "d"))


def test_a_network_that_contradicts_the_checkpoint_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, lenet(3), DESCRIPTION)
    with pytest.raises(NetworkError, match=r"checkpoint with network lenet, asked for was alexnet"):
        load(path, network="alexnet")
    with pytest.raises(NetworkError, match=r"checkpoint with arguments .*3.*, asked for was .*4"):
        load(path, arguments={"classes": 4})


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(tmp_path, module):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, module, {"network": "lenet"})
    with pytest.raises(TypeError):
        save_checkpoint(path, module, {"network": object()})
    assert read_description(path) == {"network": "lenet"}
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(WeightsError, match="cannot be written"):
        save_checkpoint(tmp_path / "folder.safetensors", module, {})
    (tmp_path / "taken").write_text("")
    with pytest.raises(WeightsError, match="cannot be written"):
        save_checkpoint(tmp_path / "taken" / "c.safetensors", module, {})
    with pytest.raises(WeightsError, match="unknown kind of file"):
        save_checkpoint(tmp_path / "c.pt", module, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.safetensors", "folder.safetensors", "taken"]


@pytest.mark.parametrize("name", ["resnet20.th", "best", "net.model", "epoch.12"])
def test_a_weight_file_is_known_by_what_it_holds_and_not_by_its_ending(tmp_path, module, name):
    values, path = module.state_dict(), tmp_path / name
    for save in (
        lambda: torch.save(values, path),
        lambda: torch.save({"state_dict": values, "epoch": 3}, path, _use_new_zipfile_serialization=False),
        lambda: safetensors.torch.save_file(values, path),
    ):
        save()
        found = read_tensors(path)
        assert found.keys() == values.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in values.items())
    path.write_text("layer 1")
    with pytest.raises(WeightsError, match="unknown kind of file"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["net.th", "net"])
def test_the_settings_beside_a_weight_file_are_found_whatever_its_ending(tmp_path, name):
    (tmp_path / f"{name}.yaml").write_text("network: lenet")
    assert find_metadata(str(tmp_path / name)) == tmp_path / f"{name}.yaml"
    assert find_metadata(str(tmp_path / f"{name}.yaml")) is None


class Bomb:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(tmp_path):
    trace = tmp_path / "ran"
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"conv1.weight": Bomb(str(trace))}))
    torch.save({"conv1.weight": Bomb(str(trace))}, tmp_path / "zip.pt")
    for name in ("raw.pt", "zip.pt"):
        with pytest.raises(WeightsError, match="cannot be read as tensors"):
            load(tmp_path / name)
    assert not trace.exists()


def damaged(tmp_path, kind):
    whole = tmp_path / ("whole.safetensors" if kind.endswith("safetensors") else "whole.pt")
    save_checkpoint(tmp_path / "whole.safetensors", lenet(), {"network": "lenet"})
    torch.save(lenet().state_dict(), tmp_path / "whole.pt")
    path = tmp_path / f"bad{whole.suffix}"
    contents = {
        "empty": b"",
        "text": b"these are no weights\n",
        "truncated": whole.read_bytes()[: whole.stat().st_size // 2],
        "headless": whole.read_bytes()[:5],
    }
    if kind.split(" ")[0] in contents:
        path.write_bytes(contents[kind.split(" ")[0]])
    elif kind == "folder":
        path.mkdir()
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "no tensors":
        torch.save({}, path)
    elif kind == "mixed":
        torch.save({"conv1.weight": torch.zeros(1), "epoch": 3}, path)
    elif kind == "suffix":
        path = tmp_path / "weights.csv"
        path.write_text("1")
    return path


KINDS = ["empty", "text", "truncated", "headless"]


@pytest.mark.parametrize(
    "kind",
    [
        *KINDS,
        *(kind + " safetensors" for kind in KINDS),
        "folder",
        "missing",
        "tensor",
        "no tensors",
        "mixed",
        "suffix",
    ],
)
def test_a_file_that_holds_no_weights_is_refused_in_one_line(tmp_path, kind):
    path = damaged(tmp_path, kind)
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_checkpoint_with_a_wrong_description_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, lenet(), {**DESCRIPTION, "input_shape": [28]})
    with pytest.raises(WeightsError, match=r"c\.safetensors.*input_shape"):
        load(path)


def test_misfits_are_named_with_their_counts(tmp_path, module):
    values = module.state_dict()
    del values["conv1.weight"], values["conv1.bias"], values["ip1.bias"], values["ip2.bias"]
    values |= {"extra": torch.zeros(1), "conv2.weight": torch.zeros(50, 20, 3, 3)}
    torch.save(values, tmp_path / "w.pt")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "w.pt")
    text = str(caught.value)
    assert "4 missing: conv1.weight, conv1.bias, ip1.bias, ..." in text
    assert "1 unexpected: extra" in text
    assert "1 of another shape: conv2.weight (50, 20, 3, 3) instead of (50, 20, 5, 5)" in text


def test_weights_must_be_given():
    with pytest.raises(NetworkError, match=r"no weights are given; give --weights FILE"):
        load()
    with pytest.raises(WeightsError, match="there is no DEFAULT"):
        load("DEFAULT")


def test_default_weights_without_a_connection_fail_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r"weights of squeezenet1_1: DEFAULT cannot be downloaded"):
        load("DEFAULT", network="squeezenet1_1")


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone():
    first = load("random")
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    second = load("random")
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(0)
    assert first.weights_hash == second.weights_hash == hash_weights(lenet().state_dict())


def test_torchvision_networks_bring_their_own_input_and_class_names(tmp_path):
    module = torchvision.models.squeezenet1_1(weights=None)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    network = load(tmp_path / "w.pth", network="squeezenet1_1")
    assert network.input_shape == (3, 224, 224)
    assert network.mean == (0.485, 0.456, 0.406) and network.std == (0.229, 0.224, 0.225)
    assert len(network.class_names) == 1000 and network.class_names[9] == "ostrich"
    few = load("random", network="squeezenet1_1", arguments={"num_classes": 7}, input_size=96)
    assert few.class_names == () and few.input_shape == (3, 96, 96)


def test_old_densenet_names_load(tmp_path):
    arguments = {"num_classes": 4}
    module = torchvision.models.densenet121(weights=None, **arguments)
    state = {name: value for name, value in module.state_dict().items() if "num_batches" not in name}
    pattern = re.compile(r"(denselayer\d+)\.(norm|conv)([12])")
    old = {pattern.sub(r"\1.\2.\3", name): value for name, value in state.items()}
    assert any("denselayer1.norm.1.weight" in name for name in old)
    torch.save(old, tmp_path / "w.pth")
    network = load(tmp_path / "w.pth", network="densenet121", arguments=arguments, input_size=64)
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(network.module(x), module.eval()(x))


def test_unknown_names_are_answered_with_the_closest():
    assert "vit_b_16" not in known_networks() and "resnet18" in known_networks()
    with pytest.raises(NetworkError, match=r"unknown network; did you mean alexnet"):
        load("random", network="alexnte")


FACTORIES = """
import torch
def small(width=2):
    return torch.nn.Sequential(torch.nn.Conv2d(2, width, 3), torch.nn.Flatten(), torch.nn.Linear(width * 36, 5))
def text():
    return "no module"
def fails():
    raise RuntimeError("two\\nlines")
number = 3
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "users_networks.py").write_text(FACTORIES)
    (tmp_path / "users_broken.py").write_text("import nothing_of_the_kind")
    monkeypatch.syspath_prepend(tmp_path)
    yield "users_networks"
    sys.modules.pop("users_networks", None)


def test_the_users_factory_is_built_with_its_arguments(factories):
    network = load("random", network=f"{factories}:small", arguments={"width": 4}, input_size=8)
    assert network.input_shape == (2, 8, 8) and network.mean == (0, 0) and network.std == (1, 1)
    assert network.module[0].out_channels == 4


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("users_networks:smal", {}, "has no 'smal'; did you mean small"),
        ("users_networks:number", {}, "is not callable"),
        ("users_networks:text", {}, "returned a str"),
        ("users_networks:fails", {}, "RuntimeError: two lines"),
        ("users_networks:small", {"depth": 3}, "depth=3.*TypeError"),
        ("users_broken:small", {}, "nothing_of_the_kind"),
        ("users_absent:small", {}, "cannot import 'users_absent'"),
        ("alexnet", {"weights": "DEFAULT"}, "arguments hold weights"),
        ("users_networks:small", {}, "does not take an input of 2x9x9"),
    ],
)
def test_networks_that_cannot_be_built_are_explained_in_one_line(factories, name, arguments, message):
    with pytest.raises(NetworkError, match=message) as caught:
        load("random", network=name, arguments=arguments, input_size=9)
    assert "\n" not in str(caught.value)


def test_an_unknown_input_must_be_given(factories):
    with pytest.raises(NetworkError, match=r"input_size is not known; give input_size \(--input-size\)"):
        load("random", network=f"{factories}:small")


@pytest.mark.parametrize(("content", "message"), [(b"a\nb\n", "2 names for 10"), (b"\xff\xfe", "read"), (None, "read")])
def test_class_names_that_do_not_fit_are_refused(tmp_path, content, message):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NetworkError, match=message):
        load("random", class_names=str(path))


def test_a_file_beside_a_lightning_checkpoint_is_read(tmp_path):
    torch.save(
        {"state_dict": {"model." + name: value for name, value in lenet(3).state_dict().items()}}, tmp_path / "n.ckpt"
    )
    (tmp_path / "n.yaml").write_text("network: lenet\narguments: {classes: 3}\nmean: [0.25]\n")
    assert load(tmp_path / "n.ckpt").mean == (0.25,)
