"""Factories whose modules are in half or double precision, have lazy layers, or hold complex parameters."""

import pytest
import torch

from raygen.errors import NetworkError
from raygen.networks import NetworkSettings, Node, cut_for, list_layers, load_network, score_nodes

FACTORIES = """
import torch
from torch import nn

def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

def half():
    return plain().half()

def bfloat16():
    return plain().bfloat16()

def double():
    return plain().double()

def lazy():
    return nn.Sequential(
        nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4)
    )

def parallel():
    return nn.DataParallel(plain())

def compiled():
    return torch.compile(plain())

def averaged():
    return torch.optim.swa_utils.AveragedModel(plain())

def both():
    return torch.compile(nn.DataParallel(plain()))

class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.a_phase = nn.Parameter(torch.ones(3, 1, 1, dtype=torch.complex64) * 1j)
        self.rest = plain()

    def forward(self, x):
        return self.rest((x * self.a_phase).imag)
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    (tmp_path / "unusual_networks.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)

    def of(factory, **changes):
        settings = {"weights": "random", "input_size": 8, **changes}
        return load_network(NetworkSettings(network=f"unusual_networks:{factory}", **settings))

    return of


def scores(network, layer, x):
    cut = cut_for(network, Node(layer, 1))
    return score_nodes(cut, [Node(layer, 1)], len(x))(x)


@pytest.mark.parametrize("factory", ["half", "bfloat16"])
def test_half_precision_is_widened_to_float32_which_holds_the_same_numbers(load, factory):
    network, plain = load(factory), load("plain")
    rounded = {
        name: value.to(getattr(torch, factory.replace("half", "float16")))
        for name, value in plain.module.state_dict().items()
    }
    for name, value in network.module.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, rounded[name].float())


def test_scores_of_a_network_in_double_precision_are_computed_in_it(load):
    network, plain = load("double"), load("plain")
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert scores(network, "4", x).dtype == torch.float32
    expected = plain.module.double()(x.double())[:, 1]
    torch.testing.assert_close(scores(network, "4", x.double()), expected, rtol=1e-12, atol=1e-12)


def test_lazy_layers_take_their_sizes_from_the_input_and_their_weights_from_the_file(load, tmp_path):
    first, second, other = load("lazy", channels=3), load("lazy", channels=3), load("lazy", channels=1)
    assert first.weights_hash == second.weights_hash
    assert first.input_shape == (3, 8, 8)
    assert other.module.state_dict()["0.weight"].shape == (8, 1, 3, 3)
    trained = {name: value + 1 for name, value in first.module.state_dict().items()}
    torch.save(trained, tmp_path / "trained.pt")
    read = load("lazy", channels=3, weights=str(tmp_path / "trained.pt"))
    assert all(torch.equal(value, trained[name]) for name, value in read.module.state_dict().items())


def test_lazy_layers_without_a_known_input_are_refused_by_what_is_missing(load):
    with pytest.raises(NetworkError, match=r"lazy layers .*; give input_size and channels"):
        load("lazy")


def test_complex_parameters_are_kept(load):
    network = load("Complex", channels=3)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scores(network, "rest.4", x), network.module.rest(x)[:, 1])


@pytest.mark.parametrize("factory", ["parallel", "compiled", "averaged", "both"])
def test_what_a_factory_wraps_around_its_network_is_taken_off(load, tmp_path, factory):
    network, plain = load(factory), load("plain")
    assert network.weights_hash == plain.weights_hash
    torch.save(network.module.state_dict(), tmp_path / "w.pt")
    assert load(factory, weights=str(tmp_path / "w.pt")).weights_hash == plain.weights_hash
    assert [layer.name for layer in list_layers(network)] == [layer.name for layer in list_layers(plain)]
