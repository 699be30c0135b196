"""What a user may decide about sampling: flat names, checked together, and read without torch."""

import subprocess
import sys

import pytest

from raygen.errors import SettingsError
from raygen.sampling import SamplingSettings
from raygen.sampling.settings import FEATURES, PHOTOGRAPHS, PRESETS


def test_a_chain_costs_its_trajectories_times_their_steps():
    assert SamplingSettings(steps=3, warm_up=5, draws=2, thin=2).gradients == 27
    assert SamplingSettings(kernel="langevin", steps=8, warm_up=10, draws=3, thin=4).gradients == 22
    assert SamplingSettings(steps=3, warm_up=5, draws=2, thin=2, budget=40).gradients == 135


def parsed(**values):
    return SamplingSettings.parse(values, where="test")


def of(settings, names):
    return {name: getattr(settings, name) for name in names}


def test_a_network_of_colour_images_gets_the_settings_for_photographs_where_none_are_given():
    assert of(parsed().for_images_of(3, 112), PHOTOGRAPHS) == PHOTOGRAPHS
    assert of(parsed(contrast=8.0, chains=2).for_images_of(3, 112), PHOTOGRAPHS) == {**PHOTOGRAPHS, "contrast": 8.0}
    assert parsed(views=0).for_images_of(3, 112).views == 0


def test_chains_of_classes_start_near_modes_and_need_less_warm_up_but_where_a_rise_is_asked_for():
    assert of(parsed().for_images_of(3, 112), ("climb", "warm_up")) == {"climb": 96, "warm_up": 30}
    for own in ({"resample": True}, {"anneal": 0.4}, {"climb": 0}):
        assert of(parsed(**own).for_images_of(3, 112), ("climb", "warm_up")) == {"climb": 0, "warm_up": 60}
    assert parsed(warm_up=7).for_images_of(3, 112).warm_up == 7


def test_nodes_within_a_network_of_photographs_are_tilted_less_and_go_on_until_they_converge_or_time_is_up():
    found = parsed().for_images_of(3, 59, classes=False)
    assert of(found, FEATURES) == FEATURES and (found.contrast, found.views) == (4.0, 0)
    assert found.budget == 600_000 // 59**2 - found.warm_up
    assert parsed().for_images_of(3, 7, classes=False).budget == 2000 - 60
    assert parsed().for_images_of(3, 59).budget is None


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("side", [1, 11, 224, 10_000])
@pytest.mark.parametrize(
    "own",
    [
        {},
        {"draws": 50},
        {"thin": 100},
        {"chains": 1},
        {"budget": 500},
        {"warm_up": 0},
        {"superchains": 8},
        {"resample": True},
        {"anneal": 0.5},
        {"climb": 0},
        {"climb": 7},
        {"mode_steps": 5},
    ],
)
def test_what_is_filled_in_fits_what_is_given(own, side, classes):
    found = parsed(**own).for_images_of(3, side, classes=classes)
    assert of(found, own) == own
    again = SamplingSettings.parse(found.model_dump(exclude_none=True), where="test")  # which checks them together
    assert again.model_dump() == found.model_dump()
    assert found.for_images_of(3, side, classes=classes).model_dump() == found.model_dump()


def test_what_is_given_as_null_is_not_given():
    assert of(parsed(reference_file=None, cutoff=None, tilt=None).for_images_of(3, 112), PHOTOGRAPHS) == PHOTOGRAPHS


def test_chains_that_are_copied_do_not_go_with_superchains_that_keep_to_themselves():
    assert parsed(resample=True, chains=8).resample
    with pytest.raises(SettingsError, match="superchains"):
        parsed(resample=True, superchains=2, chains=8)


def test_a_tilt_that_is_given_is_the_tilt():
    settings = parsed(tilt=2.0).for_images_of(3, 112)
    assert (settings.tilt, settings.contrast, settings.reference) == (2.0, 4.0, "power-law")


OWN = [{"reference": "white"}, {"exponent": 1.0}, {"bounded": False}, {"reference_file": "a"}]


@pytest.mark.parametrize("own", OWN)
def test_of_a_reference_that_the_user_describes_only_the_sigma_is_filled_in(own):
    given = parsed(**own)
    found = given.for_images_of(3, 112)
    assert found == given.model_copy(update={"sigma": 1.0, **of(found, ("chains", "draws", "thin", "warm_up"))})
    assert parsed(**own, sigma=0.7).for_images_of(3, 112).sigma == 0.7


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_network_of_other_images_keeps_the_papers_settings(channels):
    assert parsed().for_images_of(channels, 112) == parsed()
    assert (parsed().reference, parsed().sigma) == ("white", 10.0)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_its_name_says_for_every_network_and_what_is_given_goes_before(name):
    settings = parsed(preset=name)
    assert settings.for_images_of(3, 112) == settings and of(settings, PRESETS[name]) == PRESETS[name]
    assert parsed(preset=name, warm_up=7).warm_up == 7


def test_a_preset_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(SettingsError, match="quick"):
        parsed(preset="quik")


@pytest.mark.parametrize("module", ["sampling", "hmc", "tilting"])
def test_settings_are_read_without_torch_arrow_or_ray(module):
    program = f"import raygen.{module}.settings, sys; print({{'torch', 'pyarrow', 'ray', 'numpy'}} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
