"""The reference of a layer's input: as asked for, in the network's input units."""

import re

import pytest
import torch
from torch import nn

from raygen.data import ImageSet
from raygen.errors import SettingsError
from raygen.networks import wrap_network
from raygen.sampling import make_reference
from raygen.tilting import Fitted, PowerLaw, TiltingSettings, WhiteNoise

NETWORK = wrap_network(nn.Conv2d(2, 3, 3), name="small", input_shape=(2, 6, 7), mean=(0.5, 0.1), std=(0.25, 2.0))
SHAPE = (2, 6, 7)


def image_set(images):
    return ImageSet("made", images.to(torch.uint8), torch.zeros(len(images), dtype=torch.int64), ("one",))


def noise(count=300, seed=0):
    return torch.randint(256, (count, *SHAPE), generator=torch.Generator().manual_seed(seed))


def test_white_noise_and_power_law_are_made_of_the_settings():
    white = make_reference(TiltingSettings(sigma=3.0), (2, 3, 3), NETWORK, None)
    assert white == WhiteNoise((2, 3, 3), 3.0)
    law = make_reference(TiltingSettings(reference="power-law", sigma=3.0, exponent=0.5), (3, 4, 4), NETWORK, None)
    assert isinstance(law, PowerLaw) and (law.shape, law.sigma, law.exponent) == ((3, 4, 4), 3.0, 0.5)


def test_a_fit_to_whole_images_is_in_the_networks_units():
    images = noise()
    reference = make_reference(TiltingSettings(reference="fitted", floor=1e-6), SHAPE, NETWORK, image_set(images))
    assert isinstance(reference, Fitted) and reference.shape == SHAPE
    inputs = (images / 255 - torch.tensor([0.5, 0.1]).view(2, 1, 1)) / torch.tensor([0.25, 2.0]).view(2, 1, 1)
    torch.testing.assert_close(reference.mean, inputs.mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(reference.root @ reference.root, torch.cov(inputs.flatten(1).T), rtol=0, atol=1e-4)


def test_floor_and_scale_reach_the_fit():
    images = image_set(noise(5))
    plain, wide = (
        make_reference(TiltingSettings(reference="fitted", scale=scale, floor=0.1), SHAPE, NETWORK, images)
        for scale in (1.0, 3.0)
    )
    torch.testing.assert_close(wide.root, 3 * plain.root)
    values = torch.linalg.eigvalsh(plain.root.double()).square()
    assert values[0] / values.sum() == pytest.approx(0.1 / (84 * (1 + 80 / 84 * 0.1)), rel=0.05)


def test_patches_are_windows_of_the_images_from_everywhere():
    # A pixel's value is its column in channel 0 and its row in channel 1, so a window's values say where it was.
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(7), indexing="ij")
    images = image_set(torch.stack([columns * 10, rows * 10]).expand(4, 2, 6, 7))
    reference = make_reference(TiltingSettings(reference="fitted", floor=1e-6), (2, 3, 4), NETWORK, images)
    pixels = NETWORK.pixels(reference.mean) * 25.5
    # The top of a window is at 0 to 3, its left end too: 1.5 on average, and of variance 1.25.
    steps = torch.arange(4).expand(3, 4)
    torch.testing.assert_close(pixels[0], 1.5 + steps.float(), rtol=0, atol=0.05)
    torch.testing.assert_close(pixels[1], 1.5 + torch.arange(3.0)[:, None].expand(3, 4), rtol=0, atol=0.05)
    covariance = (reference.root @ reference.root).view(2, 12, 2, 12) * 25.5**2
    assert covariance[0, 0, 0, 11].item() * 0.25**2 == pytest.approx(1.25, abs=0.05)
    assert covariance[1, 3, 1, 8].item() * 2.0**2 == pytest.approx(1.25, abs=0.05)
    assert covariance[0, 0, 1, 0].item() * 0.25 * 2.0 == pytest.approx(0, abs=0.05)


def test_a_fit_to_patches_is_always_the_same():
    images, settings = image_set(noise(20)), TiltingSettings(reference="fitted")
    torch.manual_seed(1)
    first = make_reference(settings, (2, 2, 3), NETWORK, images)
    torch.manual_seed(2)
    again = make_reference(settings, (2, 2, 3), NETWORK, images)
    assert torch.equal(first.mean, again.mean) and torch.equal(first.root, again.root)


def test_a_fit_without_images_is_refused_in_one_line():
    with pytest.raises(SettingsError, match=r"without a data set.*--data") as caught:
        make_reference(TiltingSettings(reference="fitted"), SHAPE, NETWORK, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("shape", "count"), [((3, 6, 7), 5), ((2, 7, 7), 5), ((2, 6, 8), 5), ((2, 6, 7), 0)])
def test_a_fit_to_images_that_do_not_hold_the_shape_is_refused_in_one_line(shape, count):
    with pytest.raises(SettingsError, match=re.escape(f"{shape} for {count} images of shape (2, 6, 7)")) as caught:
        make_reference(TiltingSettings(reference="fitted"), shape, NETWORK, image_set(noise(count)))
    assert "\n" not in str(caught.value)
