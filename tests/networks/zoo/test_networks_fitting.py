"""Which tensors of a file a module takes: by their own names first, then without what wrappers add; never guessed."""

import pytest
import safetensors.torch
import torch
from torch import nn

from raygen.errors import WeightsError
from raygen.networks.zoo.weights import fit_weights, read_tensors, state_dict_of


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)


class Holds(nn.Module):
    """A network whose own attributes bear the names that wrappers use."""

    def __init__(self):
        super().__init__()
        self.module, self.model = Net(), nn.Linear(2, 2)


class Shares(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3)
        self.b, self.fc = self.a, nn.Linear(3, 2)


def state(kind):
    torch.manual_seed(7)
    return kind().state_dict()


def prefixed(prefix, values):
    return {prefix + name: value for name, value in values.items()}


def fit(module, values):
    fit_weights(module, state_dict_of(values, "weights w"), where="weights w")
    return module.state_dict()


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model._orig_mod.", "_orig_mod.module.", "module.backbone.", "ema.module."]
)
@pytest.mark.parametrize("kind", [Net, Holds])
def test_names_are_taken_as_they_are_or_without_what_stands_before_all_of_them(kind, prefix):
    assert_equal(fit(kind(), prefixed(prefix, state(kind))), state(kind))


def test_what_a_training_program_saves_beside_the_network_is_left_out():
    beside = {"loss.weight": torch.ones(10), "metric.total": torch.zeros(()), "loss.centre.bias": torch.ones(2)}
    assert_equal(fit(Net(), prefixed("model.", state(Net)) | beside), state(Net))
    averaged = torch.optim.swa_utils.AveragedModel(Net()).state_dict()
    assert "n_averaged" in averaged
    fit(Net(), averaged)


def test_unknown_names_beside_the_networks_own_are_refused():
    with pytest.raises(WeightsError, match=r"1 unexpected: extra\.weight"):
        fit(Net(), state(Net) | {"extra.weight": torch.ones(1)})
    with pytest.raises(WeightsError, match=r"1 unexpected: extra\.weight"):
        fit(Net(), prefixed("model.", state(Net) | {"extra.weight": torch.ones(1)}))


def test_a_part_of_a_larger_network_is_not_taken_for_a_whole_one():
    larger = prefixed("block.", state(Net)) | {"stem.weight": torch.ones(3), "fc.weight": torch.ones(2)}
    with pytest.raises(WeightsError, match="does not fit the network"):
        fit(Net(), larger)


def test_two_different_networks_in_one_state_dict_are_not_guessed_between():
    both = prefixed("student.", state(Net)) | prefixed("teacher.", state(Net))
    assert_equal(fit(Net(), both), state(Net))
    both["teacher.fc.bias"] = both["teacher.fc.bias"] + 1
    with pytest.raises(WeightsError, match="holds 2 networks that fit"):
        fit(Net(), both)


@pytest.mark.parametrize("kept", ["a", "b"])
def test_of_tensors_that_are_shared_one_name_is_enough(tmp_path, kept):
    whole = state(Shares)
    part = {name: value for name, value in whole.items() if name.split(".")[0] in {kept, "fc"}}
    assert_equal(fit(Shares(), part), whole)
    module = Shares()
    safetensors.torch.save_model(module, str(tmp_path / "w.safetensors"))
    assert_equal(fit(Shares(), read_tensors(tmp_path / "w.safetensors")), module.state_dict())
    with pytest.raises(WeightsError, match=r"4 missing: a\.weight"):
        fit(Shares(), {name: value for name, value in whole.items() if name.startswith("fc")})


@pytest.mark.parametrize(
    ("convert", "says"),
    [
        (lambda value: value + 1j, "complex64 instead of float32"),
        (lambda value: (50 * value).to(torch.int8), "int8 instead of float32"),
        (lambda value: value > 0, "bool instead of float32"),
        (lambda value: value.to("meta"), r"no values \(meta\)"),
    ],
)
def test_values_that_lost_something_are_refused_and_nothing_is_copied(convert, says):
    module = Net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    values = {name: convert(value) if value.is_floating_point() else value for name, value in state(Net).items()}
    with pytest.raises(WeightsError, match=rf"^weights w: .* holds {says}"):
        fit(module, values)
    assert_equal(module.state_dict(), before)


def test_values_of_a_counter_that_are_no_whole_numbers_are_refused():
    values = state(Net)
    fit(Net(), values | {"norm.num_batches_tracked": torch.tensor(3.0)})
    with pytest.raises(WeightsError, match=r"norm\.num_batches_tracked holds float32 instead of int64"):
        fit(Net(), values | {"norm.num_batches_tracked": torch.tensor(3.5)})


@pytest.mark.parametrize("convert", [torch.Tensor.half, torch.Tensor.bfloat16, torch.Tensor.double])
def test_floating_values_of_another_precision_are_taken(convert):
    values = {name: convert(value) if value.is_floating_point() else value for name, value in state(Net).items()}
    found = fit(Net(), values)
    assert all(torch.equal(found[name], values[name].to(found[name].dtype)) for name in found)


def test_sparse_values_are_taken_as_the_dense_ones_that_they_stand_for():
    values = {name: value.to_sparse() if value.ndim else value for name, value in state(Net).items()}
    assert_equal(fit(Net(), values), state(Net))
