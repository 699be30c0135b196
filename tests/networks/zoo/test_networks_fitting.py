"""Which tensors of a file a module takes: by their own names first, then without what wrappers add; never guessed."""

import argparse

import pytest
import safetensors.torch
import torch
from torch import nn

from raygen.errors import WeightsError
from raygen.networks.zoo.fitting import fit_weights
from raygen.networks.zoo.weights import read_tensors, state_dict_of


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


class Wraps(nn.Module):
    """A network of which a part is parallel, as old examples of training make it."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.DataParallel(nn.Conv2d(3, 4, 3)), nn.Linear(4, 2)


@pytest.mark.parametrize("outer", ["", "module.", "model._orig_mod."])
@pytest.mark.parametrize("part", ["module.", "_orig_mod.", "_fsdp_wrapped_module._checkpoint_wrapped_module."])
def test_what_wrappers_of_a_part_put_in_the_middle_of_a_name_is_taken_off(outer, part):
    values = {name.replace("conv.", "conv." + part): value for name, value in state(Net).items()}
    assert_equal(fit(Net(), prefixed(outer, values)), state(Net))


def test_a_network_that_wraps_a_part_takes_weights_with_and_without_it():
    whole = state(Wraps)
    assert_equal(fit(Wraps(), whole), whole)
    assert_equal(fit(Wraps(), {name.replace("module.", ""): value for name, value in whole.items()}), whole)


def test_names_that_are_one_without_their_wrappers_are_not_guessed_between():
    values = state(Net) | {"conv.module.weight": torch.ones(4, 3, 3, 3)}
    with pytest.raises(WeightsError, match=r"1 unexpected: conv\.module\.weight"):
        fit(Net(), values)


class Counts(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("n_averaged", torch.tensor(3, dtype=torch.int32))
        self.register_buffer("bytes", torch.zeros(2, dtype=torch.uint8))


def test_a_networks_own_counter_is_kept_and_that_of_an_average_around_it_left_out():
    wanted = state(Counts) | {"n_averaged": torch.tensor(5, dtype=torch.int32)}
    assert_equal(fit(Counts(), wanted), wanted)
    around = prefixed("module.", wanted) | {"n_averaged": torch.tensor(9)}
    assert_equal(fit(Counts(), around), wanted)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("n_averaged", torch.tensor(2**40), "int64 instead of int32"),
        ("n_averaged", torch.tensor(0.5), "float32 instead of int32"),
        ("bytes", torch.tensor([-1, 2]), "int64 instead of uint8"),
        ("bytes", torch.tensor([256, 2]), "int64 instead of uint8"),
        ("fc.bias", torch.tensor([1e300, 0.0], dtype=torch.float64), "numbers beyond float32"),
    ],
)
def test_numbers_that_the_networks_kind_cannot_hold_are_refused(name, value, says):
    with pytest.raises(WeightsError, match=rf"^weights w: {name} holds {says}"):
        fit(Counts(), state(Counts) | {name: value})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_refused():
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(WeightsError, match=r"^weights w: fc\.bias holds a nested tensor"):
        fit(Counts(), state(Counts) | {"fc.bias": nested})


def test_numbers_that_another_kind_holds_too_are_taken():
    bias = torch.tensor([1e-300, torch.inf], dtype=torch.float64)
    values = {"n_averaged": torch.tensor(7.0), "bytes": torch.tensor([255, 0]), "fc.bias": bias}
    found = fit(Counts(), state(Counts) | values)
    assert (int(found["n_averaged"]), found["bytes"].tolist(), found["fc.bias"].tolist()) == (
        7,
        [255, 0],
        [0, torch.inf],
    )


def test_a_tensor_that_the_network_shares_has_one_value():
    values = state(Shares)
    with pytest.raises(WeightsError, match=r"a\.weight and b\.weight have different values, and are one tensor"):
        fit(Shares(), values | {"b.weight": values["b.weight"] + 1})


@pytest.mark.parametrize(
    "convert",
    [torch.Tensor.half, lambda value: value.to("meta"), lambda value: value.to_sparse() if value.ndim else value],
)
def test_two_networks_of_unlike_tensors_are_not_compared_but_refused(convert):
    values = prefixed("student.", state(Net)) | {
        "teacher." + name: convert(value) if value.is_floating_point() else value for name, value in state(Net).items()
    }
    with pytest.raises(WeightsError, match="holds 2 networks that fit"):
        fit(Net(), values)


def test_a_network_that_nothing_can_be_copied_to_is_refused():
    with torch.inference_mode():
        module = Net()
    with pytest.raises(WeightsError, match=r"^weights w: cannot be loaded into the network"):
        fit(module, state(Net))


def test_what_is_no_tensor_in_a_pickle_is_named(tmp_path):
    torch.save({"state_dict": state(Net), "args": argparse.Namespace(rate=0.1)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"cannot be read as tensors \(it holds a argparse\.Namespace, and not"):
        read_tensors(tmp_path / "w.pt")
    torch.save({1: torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="a tensor is called 1, which is no name"):
        read_tensors(tmp_path / "w.pt")
