"""Weights as training programs leave them."""

import zipfile

import pytest
import torch
from torch import nn

from raygen.errors import WeightsError
from raygen.networks import NetworkSettings, hash_weights, lenet, load_network, save_checkpoint
from raygen.networks.zoo.weights import read_description, read_tensors


def load(weights, **settings):
    return load_network(NetworkSettings(weights=str(weights), **settings))


@pytest.fixture
def module():
    torch.manual_seed(1)
    return lenet(3)


ARGUMENTS = {"arguments": {"classes": 3}}


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


@pytest.mark.parametrize("what", ["a weight", "the description"])
def test_a_checkpoint_in_which_a_bit_has_changed_is_refused_in_one_line(tmp_path, module, what):
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, module, {"network": "lenet", "mean": [0.25]})
    data = bytearray(path.read_bytes())
    at = len(data) - 3 if what == "a weight" else data.index(b"0.25") + 2
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="holds other values than were written"):
        read_tensors(path)
    if what == "the description":
        with pytest.raises(WeightsError, match="holds other values than were written"):
            read_description(path)


def test_a_file_that_unpacks_to_much_more_than_it_is_is_refused_in_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w/data.pkl", b"}.")
        file.writestr("w/data/0", bytes(2**24))
    with pytest.raises(WeightsError, match=r"cannot be read as tensors \(ValueError: it would unpack to 16,777"):
        read_tensors(tmp_path / "w.pt")


def test_a_pickle_that_torch_would_take_for_ever_to_rebuild_is_refused_in_one_line(tmp_path):
    # The hash of a tuple of two tuples, each of them the same, and so on.
    (tmp_path / "w.pt").write_bytes(b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"Ns.")
    with pytest.raises(WeightsError, match="operations to rebuild"):
        read_tensors(tmp_path / "w.pt")


@pytest.mark.parametrize("read", [read_tensors, read_description])
@pytest.mark.parametrize("values", [b"[" + b"[]," * 2**20 + b"[]]", b"[" * 100_000 + b"]" * 100_000])
def test_a_header_of_safetensors_that_is_nested_or_holds_millions_of_values_is_refused(tmp_path, read, values):
    header = b'{"a": ' + values + b"}"
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="cannot be read as tensors"):
        read(tmp_path / "w.safetensors")
