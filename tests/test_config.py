"""The configurations: one flat set of names, each with one meaning, and stages that agree on them."""

import inspect
from pathlib import Path

import pytest
import yaml

from raygen import config
from raygen.config import (
    DemoConfig,
    PipelineConfig,
    PretrainConfig,
    SampleConfig,
    load_config,
)
from raygen.errors import SettingsError
from raygen.networks import NetworkSettings
from raygen.sampling import SamplingSettings
from raygen.settings import Settings
from raygen.training import TrainingSettings

CONFIGS = [
    kind
    for kind in vars(config).values()
    if isinstance(kind, type) and issubclass(kind, Settings) and kind.__name__.endswith("Config")
]
COMMON = {"out", "seed"}
"""Said by each command in its own words."""


@pytest.mark.parametrize("kind", CONFIGS)
def test_no_two_components_give_one_name_two_meanings(kind: type[Settings]) -> None:
    owners: dict[str, type] = {}
    for base in kind.__mro__:
        if not issubclass(base, Settings) or base is Settings:
            continue
        for name in set(inspect.get_annotations(base)) & set(base.model_fields) - COMMON:
            assert name not in owners, f"{name} is defined in {owners[name].__name__} and in {base.__name__}"
            owners[name] = base
    assert set(kind.model_fields) - COMMON == set(owners)


def test_one_name_means_one_thing_in_all_commands() -> None:
    meanings: dict[str, tuple[object, ...]] = {}
    for kind in CONFIGS:
        for name, field in kind.model_fields.items():
            if name in {"out", "nodes", "actors"}:  # their descriptions say what they are to that command
                continue
            meaning = (field.description, field.annotation, repr(field.default))
            assert meanings.setdefault(name, meaning) == meaning, f"{name} in {kind.__name__}"


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_defaults_are_valid_and_no_option_takes_anothers_name(kind: type[Settings]) -> None:
    required = {name: "conv1:0" for name, field in kind.model_fields.items() if field.is_required()}
    kind.parse(required, where="test")
    flags = [f"--{prefix}{name}".replace("_", "-") for name in kind.model_fields for prefix in ("", "no-")]
    assert len(set(flags)) == len(flags)
    assert not {"--config", "--help"} & set(flags)


PIPELINE = {
    "out": "runs/one/",
    "nodes": "conv1:0",
    "epochs": 3,
    "generative_epochs": 1,
    "seed": 9,
    "sigma": 2.0,
    "arguments": {"classes": 10},
}


def test_a_pipeline_is_its_two_stages_in_one_folder() -> None:
    whole = PipelineConfig.parse(PIPELINE, where="test")
    first = whole.pretraining
    second = whole.sampling("runs/one/pretrain/network.safetensors")
    assert type(first) is PretrainConfig
    assert (first.out, first.epochs, first.seed) == ("runs/one/pretrain", 3, 9)
    assert TrainingSettings.part_of(first) == TrainingSettings(epochs=3, generative_epochs=1)
    assert type(second) is SampleConfig
    assert (second.out, second.sigma, second.seed) == ("runs/one/", 2.0, 9)
    assert second.weights == "runs/one/pretrain/network.safetensors"
    assert SamplingSettings.part_of(second) == SamplingSettings(sigma=2.0, seed=9)


def test_the_trained_network_itself_says_which_network_it_is() -> None:
    second = PipelineConfig.parse(PIPELINE, where="test").sampling("w.safetensors")
    assert not {"network", "arguments"} & NetworkSettings.part_of(second).model_fields_set
    assert "weights" in NetworkSettings.part_of(second).model_fields_set


def test_the_stages_leave_the_whole_configuration_as_it_was() -> None:
    whole = PipelineConfig.parse(PIPELINE, where="test")
    before = (whole.model_dump(), set(whole.model_fields_set))
    _ = whole.pretraining, whole.sampling("w.safetensors")
    assert (whole.model_dump(), whole.model_fields_set) == before


def test_the_demo_is_a_pipeline_with_its_own_choices() -> None:
    whole = DemoConfig.parse({"out": "d", "seed": 3, "workers": 1, "actors": 2}, where="test").pipeline
    assert (whole.out, whole.seed, whole.workers, whole.actors) == ("d", 3, 1, 2)
    assert (whole.network, whole.data) == ("lenet", "digits")


def test_options_go_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("nodes: conv1:0\nout: here\nsigma: 3\nseed: 4\n")
    found = load_config(SampleConfig, str(file), {"sigma": 5})
    assert (found.nodes, found.out, found.sigma, found.seed) == ("conv1:0", "here", 5.0, 4)
    assert found.model_fields_set == {"nodes", "out", "sigma", "seed"}


def test_the_message_says_where_a_wrong_value_came_from(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("nodes: conv1:0\nout: here\nsigma: -3\n")
    with pytest.raises(SettingsError, match=r"^\S+c\.yaml: sigma = -3 is not possible"):
        load_config(SampleConfig, str(file), {})
    with pytest.raises(SettingsError, match=r"^options: sigma = -1 is not possible"):
        load_config(SampleConfig, None, {"nodes": "a", "out": "b", "sigma": -1})


def test_a_configuration_comes_back_from_yaml_as_it_was(tmp_path: Path) -> None:
    whole = PipelineConfig.parse(PIPELINE, where="test")
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(whole.model_dump(mode="json")))
    assert load_config(PipelineConfig, str(file), {}) == whole
