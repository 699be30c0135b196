"""The paper's recipes: shipped, whole, and overridden by what is given."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

import raygen.recipes
from raygen.config import PipelineConfig, PretrainConfig, load_config
from raygen.errors import SettingsError
from raygen.networks import known_networks
from raygen.recipes import RECIPES, read_recipe
from raygen.training import TrainingSettings, learning_rate

FOLDER = Path(raygen.recipes.__file__).parent


def config(recipe, **given):
    return PretrainConfig.parse({"recipe": recipe, "out": "run", **given}, where="test")


def test_every_file_has_its_name_and_is_shipped():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(RECIPES)
    shipped = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert all(any(fnmatch(f"{name}.yaml", each) for each in shipped["raygen.recipes"]) for name in RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_its_source_and_each_of_its_values_is_a_setting(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    assert re.match(r"# .*arXiv 1412\.6296\), section 4", text)
    assert ".prototxt" in text
    values = read_recipe(name)
    assert values == yaml.safe_load(text)
    assert values["network"] in known_networks()
    found = config(name).model_dump()
    assert {key: found[key] for key in values} == values


def test_the_lenet_recipe_is_the_papers_which_is_the_default():
    found = config("lenet-mnist")
    assert (found.network, found.data) == ("lenet", "mnist")
    assert TrainingSettings.part_of(found) == TrainingSettings()
    assert (found.epochs, found.planned_switch, found.refine_rate) == (25, 16, 0.003)
    assert not found.shuffle  # Caffe reads images as they are stored


@pytest.mark.parametrize(
    ("name", "network"), [("alexnet-imagenet", "caffe_alexnet"), ("zeiler-fergus-imagenet", "zeiler_fergus")]
)
def test_the_imagenet_recipes_are_the_papers_with_caffes_solver(name, network):
    found = config(name)
    assert (found.network, found.data, found.precision) == (network, "folder", "bfloat16")
    assert (found.batch_size, found.epochs, found.planned_switch) == (256, 70, 45)
    assert (found.momentum, found.weight_decay, found.bias_rate_factor, found.bias_decay_factor) == (0.9, 5e-4, 2, 0)
    # 100,000 iterations of 256 images are 20 epochs of ImageNet's 1,281,167.
    steps = -(-1_281_167 // 256)
    assert found.decay_epochs == round(100_000 / steps)
    assert learning_rate(99_000, steps, found, 70) == 0.01
    assert learning_rate(101_000, steps, found, 70) == pytest.approx(0.001)
    assert learning_rate(45 * steps, steps, found, 45) == pytest.approx(0.003)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("objective", ["generative", "discriminative", "generative-then-discriminative"])
def test_the_rows_of_the_papers_table_are_a_recipe_with_an_objective(name, objective):
    found = config(name, objective=objective)
    assert found.objective == objective
    epochs = {"generative": found.epochs, "discriminative": 0}.get(objective, round(0.64 * found.epochs))
    assert found.planned_switch == epochs


def test_options_go_before_the_file_and_the_file_before_the_recipe(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("recipe: alexnet-imagenet\nout: run\nepochs: 7\nbatch_size: 32\n")
    found = load_config(PretrainConfig, str(file), {"batch_size": 16})
    assert (found.batch_size, found.epochs, found.weight_decay) == (16, 7, 5e-4)
    assert (found.network, found.bias_decay_factor) == ("caffe_alexnet", 0)
    # A value given that is the default of the setting still goes before the recipe.
    assert load_config(PretrainConfig, str(file), {"bias_decay_factor": 1.0}).bias_decay_factor == 1


def test_a_shorter_run_keeps_the_share_of_generative_epochs():
    assert config("zeiler-fergus-imagenet", epochs=14).planned_switch == 9


def test_a_pipeline_takes_a_recipe_too():
    whole = PipelineConfig.parse({"recipe": "lenet-mnist", "out": "run", "nodes": "ip2:*"}, where="test")
    assert whole.data == "mnist"
    assert whole.pretraining == config("lenet-mnist", out="run/pretrain")


def test_an_unknown_recipe_is_answered_with_the_closest():
    with pytest.raises(SettingsError, match=r"^recipe: unknown recipe 'alexnet'; did you mean alexnet-imagenet"):
        config("alexnet")
    with pytest.raises(SettingsError, match="recipe = 5 is not possible"):
        config(5)
