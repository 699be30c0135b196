"""A reference fitted to large images: by its spectrum, in the network's input units."""

from pathlib import Path

import pytest
import torch
from torch import nn

from raygen.data import DataSettings, ImageSet, load_data
from raygen.errors import SettingsError
from raygen.networks import wrap_network
from raygen.sampling import make_reference
from raygen.tilting import Fitted, FittedSpectrum, PowerLaw, TiltingSettings
from raygen.tilting.references.power_law import cycles, full_plane

PICTURES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "imagenet-sample"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETTINGS = TiltingSettings(reference="fitted")


def network(size):
    return wrap_network(nn.Conv2d(3, 2, 3), name="n", input_shape=(3, size, size), mean=MEAN, std=STD)


def image_set(size, count=20):
    drawn = PowerLaw.of((3, size, size), 40.0).draw(count, torch.Generator().manual_seed(0)) + 120
    return ImageSet("made", drawn.clamp(0, 255).byte(), torch.zeros(count, dtype=torch.int64), ("one",))


def test_up_to_4096_values_it_is_the_covariance_and_above_the_spectrum():
    assert isinstance(make_reference(SETTINGS, (3, 16, 16), network(48), image_set(48)), Fitted)
    assert isinstance(make_reference(SETTINGS, (3, 48, 48), network(48), image_set(48)), FittedSpectrum)


def test_the_spectrum_is_in_the_networks_units_of_whole_images_and_of_patches():
    images = image_set(64)
    inputs = (images.images.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    for size, tolerance in ((64, 1e-4), (40, 0.1)):
        reference = make_reference(SETTINGS, (3, size, size), network(64), images)
        assert reference.shape == (3, size, size)
        torch.testing.assert_close(reference.mean.flatten().double(), inputs.mean((0, 2, 3)), rtol=0, atol=tolerance)
        variance = inputs.var((0, 2, 3)).sum().item()
        assert reference.power / size**2 == pytest.approx(variance, rel=0.02 if size == 64 else 0.1)


def test_floor_and_scale_reach_the_spectrum():
    images = image_set(40)
    plain, wide = (
        make_reference(TiltingSettings(reference="fitted", scale=scale, floor=0.5), (3, 40, 40), network(40), images)
        for scale in (1.0, 2.0)
    )
    torch.testing.assert_close(wide.root, 2 * plain.root)
    values = torch.linalg.eigvalsh(plain.root.double().permute(2, 3, 0, 1)).square()
    inputs = images.images.double() / 255 / torch.tensor(STD).view(3, 1, 1)
    variance = inputs.var((0, 2, 3), correction=0).mean().item()
    assert values.min().item() == pytest.approx(0.5 * variance, rel=1e-4)
    assert (values < 1.01 * values.min()).double().mean() > 0.5


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 40, 40), (3, 40, 48)])
def test_images_that_do_not_hold_the_shape_are_refused_with_both(shape):
    with pytest.raises(SettingsError, match=rf"\({shape[0]}, {shape[1]}, {shape[2]}\).*\(3, 40, 40\)") as caught:
        make_reference(SETTINGS, shape, network(40), image_set(40))
    assert "\n" not in str(caught.value)


@pytest.mark.shared_data
@pytest.mark.skipif(not PICTURES.is_dir(), reason="the test data is not here")
def test_photographs_give_coloured_clouds_without_a_grid(tmp_path):
    (tmp_path / "all").mkdir()
    for picture in sorted(PICTURES.glob("*/*.jpg"))[::13]:
        (tmp_path / "all" / picture.name).symlink_to(picture)
    pictures, _ = load_data(DataSettings(data="folder", data_root=str(tmp_path), corrupt_limit=0), (3, 224, 224))
    reference = make_reference(SETTINGS, (3, 224, 224), network(224), pictures)
    power = full_plane(reference.root.double().square().sum((0, 1)) / 3, 224)
    radius = cycles(224, 224)
    rings = [power[(radius.round() == ring)] for ring in range(1, 100)]
    # No frequency stands out of its ring, and the rings fall as photographs' do.
    assert max((ring.max() / ring.median()).item() for ring in rings[4:]) < 4
    means = torch.stack([ring.mean() for ring in rings]).log()
    line = torch.stack([torch.arange(1.0, 100.0).log(), torch.ones(99)], dim=1).double()
    assert -0.5 * torch.linalg.lstsq(line, means[:, None]).solution[0].item() == pytest.approx(1.2, abs=0.2)
    drawn = reference.draw(4, torch.Generator().manual_seed(0))
    assert drawn.std().item() == pytest.approx(reference.power**0.5 / reference.dimension**0.5, rel=0.3)
    assert torch.corrcoef(drawn.transpose(0, 1).flatten(1))[0, 1] > 0.6
