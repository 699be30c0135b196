"""A saved reference instead of a fitted one: the same samples, refused where it does not fit."""

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from raygen.data import ImageSet, hash_images
from raygen.errors import SettingsError, StoreError
from raygen.networks import NetworkSettings, Node, load_network, wrap_network
from raygen.runs import begin_run
from raygen.sampling import SamplingSettings, SavedReference, UnitSampler, fit_reference, make_reference
from raygen.store import Unit
from raygen.tilting import (
    Bounded,
    FitSettings,
    Fitted,
    FittedSpectrum,
    PowerLaw,
    TiltingSettings,
    WhiteNoise,
    save_reference,
)

LENET = load_network(NetworkSettings(weights="random"))
FEW = SamplingSettings(steps=2, warm_up=4, chains=2, draws=2, thin=2, tilt=3.0, reference="fitted")
CLASS = (Node("ip2", 1),)


def shades(count=40, size=28):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 1, size, size), generator=generator).to(torch.uint8)
    return ImageSet("shades", pixels, torch.zeros(count, dtype=torch.int64), ("one",))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    for name, shape, scale in (("whole", (1, 28, 28), 1.0), ("wide", (1, 28, 28), 2.0), ("field", (1, 5, 5), 1.0)):
        fitted, provenance = fit_reference(FitSettings(scale=scale), shape, LENET, shades())
        save_reference(folder / f"{name}.safetensors", fitted, provenance)
    return folder


def using(file):
    return SamplingSettings(**{**FEW.model_dump(), "reference_file": str(file)})


def begin(folder, file, nodes=CLASS, **changes):
    settings = using(file).model_copy(update=changes)
    return begin_run(str(folder), LENET, nodes, settings, images=None, about={"raygen": "0"})


@pytest.mark.parametrize(("layer", "name"), [("ip2", "whole"), ("conv1", "field")])
def test_a_saved_reference_gives_the_samples_of_the_fitted_one_to_the_bit(layer, name, files):
    unit = Unit("unit", layer, (f"{layer}:1", f"{layer}:2"), 2)
    fitted = UnitSampler(LENET, FEW, shades(), torch.device("cpu")).sample(unit)
    file = files / f"{name}.safetensors"
    read = UnitSampler(LENET, using(file), None, torch.device("cpu")).sample(unit)
    given = UnitSampler(LENET, FEW, SavedReference.read(str(file)), torch.device("cpu")).sample(unit)
    assert read.equals(fitted) and given.equals(fitted)
    other = UnitSampler(LENET, using(files / "wide.safetensors"), None, torch.device("cpu"))
    if layer == "ip2":
        assert not other.sample(unit).equals(fitted)


def test_a_saved_reference_goes_before_the_kind_that_is_asked_for(files):
    settings = TiltingSettings(reference="white", reference_file=str(files / "whole.safetensors"))
    assert isinstance(make_reference(settings, (1, 28, 28), LENET, None), Fitted)


def test_the_provenance_says_what_the_fit_saw():
    _, whole = fit_reference(FitSettings(), (1, 28, 28), LENET, shades())
    assert (whole.data_set, whole.data_hash, whole.images, whole.shape) == (
        "shades", hash_images(shades()), 40, (1, 28, 28))  # fmt: skip
    _, patches = fit_reference(FitSettings(), (1, 5, 5), LENET, shades())
    assert (patches.images, patches.shape) == (20_000, (1, 28, 28))
    wide = wrap_network(LENET.module, name="wide", input_shape=(1, 70, 70), mean=(0.0,), std=(1.0,))
    spectrum, large = fit_reference(FitSettings(), (1, 70, 70), wide, shades(3, 70))
    assert isinstance(spectrum, FittedSpectrum) and large.images == 3


def test_the_request_has_the_files_hash_and_its_path_stands_beside(files, tmp_path):
    document = begin(tmp_path / "run", files / "whole.safetensors").request
    saved = SavedReference.read(str(files / "whole.safetensors"))
    assert document["request"]["reference_hash"] == saved.hash and len(saved.hash) == 64
    assert "reference_file" not in document["request"]["settings"]
    assert document["about"] == {"raygen": "0", "reference_file": str(files / "whole.safetensors")}
    assert document["request"]["data"] is None


def test_another_reference_at_the_same_path_is_refused_by_its_hash(files, tmp_path):
    begin(tmp_path / "run", files / "whole.safetensors")
    with pytest.raises(StoreError, match=r"it holds another run: there reference_hash is \"\w{64}\", now \"\w{64}\""):
        begin(tmp_path / "run", files / "wide.safetensors")
    with pytest.raises(StoreError, match=r"there reference_hash is \"\w{64}\", now null"):
        begin_run(str(tmp_path / "run"), LENET, CLASS, FEW, images=None, about={})


def test_the_same_reference_elsewhere_goes_on_with_the_run(files, tmp_path):
    run = begin(tmp_path / "run", files / "whole.safetensors")
    shutil.copy(files / "whole.safetensors", tmp_path / "moved.safetensors")
    assert begin(tmp_path / "run", tmp_path / "moved.safetensors").request == run.request


@pytest.mark.parametrize(
    ("node", "name", "changes"),
    [
        (Node("ip2", 1), "field", {}),
        (Node("conv1", 3, (2, 2)), "field", {}),
        (Node("conv1", 3), "field", {"crop": False}),
    ],
    ids=str,
)
def test_a_reference_of_a_smaller_size_is_refused_before_anything_is_written(node, name, changes, files, tmp_path):
    sizes = {"whole": "1x28x28", "field": "1x5x5"}
    (other,) = set(sizes) - {name}
    with pytest.raises(SettingsError) as caught:
        begin(tmp_path / "run", files / f"{name}.safetensors", (node,), **changes)
    assert str(caught.value) == (
        f"{files}/{name}.safetensors: a reference of {sizes[name]} for node {node}, whose images are {sizes[other]}; "
        "make one of that size, or larger, with raygen reference"
    )
    assert not (tmp_path / "run").exists()


def test_one_reference_serves_every_layer_by_its_part_of_the_receptive_fields_size(files, tmp_path):
    nodes = (Node("ip2", 1), Node("conv1", 3, (2, 2)), Node("conv2", 3, (1, 1)), Node("conv1", 3), Node("conv2", 3))
    assert len(begin(tmp_path / "run", files / "whole.safetensors", nodes).plan) == 5
    settings = using(files / "whole.safetensors")
    part = make_reference(settings, (1, 5, 5), LENET, None)
    whole = make_reference(settings, (1, 28, 28), LENET, None)
    assert isinstance(part, Fitted) and isinstance(whole, Fitted)
    inside = torch.arange(784).view(28, 28)[11:16, 11:16].flatten()
    expected = (whole.root.double() @ whole.root.double())[inside[:, None], inside]
    torch.testing.assert_close(part.root.double() @ part.root.double(), expected, rtol=1e-4, atol=1e-4)
    table = UnitSampler(LENET, settings, None, torch.device("cpu")).sample(Unit("unit", "conv1", ("conv1:1",), 2))
    assert table.num_rows == 4


PHOTOGRAPHS = wrap_network(LENET.module, name="other", input_shape=(1, 28, 28), mean=(0.5,), std=(0.25,))


def test_a_bounded_reference_serves_a_network_with_other_units(tmp_path):
    fitted, provenance = fit_reference(FitSettings(bounded=True), (1, 28, 28), LENET, shades())
    save_reference(tmp_path / "bounded.safetensors", fitted, provenance)
    settings = using(tmp_path / "bounded.safetensors")
    own, other = (make_reference(settings, (1, 28, 28), network, None) for network in (LENET, PHOTOGRAPHS))
    z = torch.randn((2, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    assert isinstance(own, Bounded) and own.image(z).min() > 0 and own.image(z).max() < 1
    torch.testing.assert_close(PHOTOGRAPHS.pixels(other.image(z)), LENET.pixels(own.image(z)))


def test_a_fit_of_bounded_images_is_to_the_logits_of_their_pixels():
    fitted, _ = fit_reference(FitSettings(bounded=True), (1, 28, 28), LENET, shades())
    assert isinstance(fitted, Bounded) and isinstance(fitted.base, Fitted)
    logits = torch.logit((shades().images.double() + 0.5) / 256)
    torch.testing.assert_close(fitted.base.mean.double(), logits.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "match"), [({"bounded": True}, "--bounded with a saved"), ({"cutoff": 4.0}, "--cutoff with a saved")]
)
def test_what_a_saved_reference_was_made_without_is_not_silently_left_out(files, change, match):
    settings = using(files / "whole.safetensors").model_copy(update=change)
    with pytest.raises(SettingsError, match=match):
        make_reference(settings, (1, 28, 28), LENET, None)


@pytest.mark.parametrize("kind", ["white", "power-law"])
def test_noise_may_be_bounded_and_cut_off(kind):
    settings = TiltingSettings(reference=kind, sigma=1.5, bounded=True, cutoff=5.0)
    reference = make_reference(settings, (1, 28, 28), PHOTOGRAPHS, None)
    assert isinstance(reference, Bounded) and isinstance(reference.base, PowerLaw)
    assert reference.power == pytest.approx(784 * 1.5**2)
    assert reference.base.exponent == (0 if kind == "white" else settings.exponent)
    assert reference.base.spectrum[10, 10] < 0.02 * reference.base.spectrum[1, 1]
    assert (reference.low.item(), reference.high.item()) == (-2, 2)


def test_draws_of_a_bounded_reference_are_shown_as_they_are():
    settings = SamplingSettings(**{**FEW.model_dump(), "reference": "white", "sigma": 1.0, "bounded": True})
    table = UnitSampler(LENET, settings, None, torch.device("cpu")).sample(Unit("unit", "ip2", ("ip2:1",), 2))
    assert set(table["image_low"].to_pylist()) == {0.0} and set(table["image_high"].to_pylist()) == {1.0}
    picture = np.asarray(Image.open(io.BytesIO(table["image"][0].as_py()["bytes"])))
    assert picture.std() == pytest.approx(255 * 0.208, rel=0.1)  # of the logistic function of N(0, 1)


def test_noise_may_be_saved_too(tmp_path):
    save_reference(tmp_path / "white.safetensors", WhiteNoise((1, 28, 28), 2.0))
    saved = SavedReference.read(str(tmp_path / "white.safetensors"))
    assert saved.provenance is None and saved.reference == WhiteNoise((1, 28, 28), 2.0)


def test_a_reference_in_another_networks_units_is_refused_with_both(tmp_path):
    other = wrap_network(LENET.module, name="other", input_shape=(1, 28, 28), mean=(0.5,), std=(0.25,))
    fitted, provenance = fit_reference(FitSettings(), (1, 28, 28), LENET, shades())
    assert (provenance.mean, provenance.std) == (LENET.mean, LENET.std)
    save_reference(tmp_path / "own.safetensors", fitted, provenance)
    settings = using(tmp_path / "own.safetensors")
    make_reference(settings, (1, 28, 28), LENET, None)
    with pytest.raises(SettingsError, match=r"of mean \(0\.0,\) .* \(0\.5,\) and \(0\.25,\)"):
        make_reference(settings, (1, 28, 28), other, None)
