"""Pictures of every format and mode, whole and broken ones; crops and flips."""

import io

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image, ImageOps

from raygen.data import ImageSet, Share
from raygen.data.augment import Preparation, _random_part, augmented, crop_uniforms, uniforms
from raygen.data.decoding import Corrupt, decode, middle
from raygen.data.images import AugmentedSet

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def file_of(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def quarters(size=8):
    """Red, green, blue and white, in reading order."""
    pixels = np.zeros((size, size, 3), dtype=np.uint8)
    half = size // 2
    pixels[:half, :half], pixels[:half, half:], pixels[half:, :half], pixels[half:, half:] = RED, GREEN, BLUE, WHITE
    return Image.fromarray(pixels)


def corners(pixels):
    return [tuple(pixels[:, row, column].tolist()) for row in (0, -1) for column in (0, -1)]


def decoded(data, shape=(3, 4, 4)):
    found = decode(data, shape, middle(shape[2], shape[1]))
    assert not isinstance(found, Corrupt), found
    return found


def test_a_picture_keeps_its_pixels_and_its_sides():
    found = decoded(file_of(quarters()), (3, 8, 8))
    assert np.array_equal(found.transpose(1, 2, 0), np.asarray(quarters()))


@given(width=st.integers(1, 60), height=st.integers(1, 60), shape=st.tuples(st.integers(1, 20), st.integers(1, 20)))
@settings(max_examples=50, deadline=None)
def test_the_middle_is_what_pillow_fits(width, height, shape):
    pixels = np.random.default_rng(width * 61 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    fitted = ImageOps.fit(Image.fromarray(pixels), shape, Image.Resampling.LANCZOS)
    found = decoded(file_of(Image.fromarray(pixels)), (3, shape[1], shape[0]))
    # Where round-off moves the box, a value on the edge of two may go to the other.
    assert np.abs(found.transpose(1, 2, 0).astype(int) - np.asarray(fitted)).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "P", "YCbCr", "LAB"])
def test_colours_of_any_mode_become_rgb(mode):
    kind = {"RGB": "PNG", "RGBA": "PNG", "P": "PNG", "CMYK": "TIFF", "YCbCr": "TIFF", "LAB": "TIFF"}.get(mode)
    if kind is None:
        pytest.skip("no format holds it")
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        picture = ImageCms.profileToProfile(quarters(), *profiles, outputMode="LAB")
    else:
        picture = quarters().convert(mode)
    found = decoded(file_of(picture, kind))
    assert found.shape == (3, 4, 4)
    for have, want in zip(corners(found), (RED, GREEN, BLUE, WHITE), strict=True):
        assert np.abs(np.array(have) - want).max() <= (8 if mode != "LAB" else 40), mode


def test_grey_becomes_three_like_channels_and_colour_one():
    grey = decoded(file_of(Image.new("L", (4, 4), 90)))
    assert (grey == 90).all()
    luma = decoded(file_of(quarters()), (1, 8, 8))
    assert corners(luma) == [(76,), (150,), (29,), (255,)]  # ITU-R 601
    assert (decoded(file_of(Image.new("1", (4, 4), 1))) == 255).all()
    assert (decoded(file_of(Image.new("LA", (4, 4), (40, 255)))) == 40).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight(channels):
    pixels = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    found = decoded(file_of(Image.fromarray(pixels)), (channels, 2, 2))
    assert (found == np.array([[0, 100], [200, 255]])).all()
    assert (decoded(file_of(Image.fromarray(pixels), "TIFF"), (channels, 2, 2)) == found).all()


def test_numbers_in_a_float_picture_are_those_of_pixels():
    pixels = np.array([[-1, 99.6], [np.nan, 300]], dtype=np.float32)
    assert decoded(file_of(Image.fromarray(pixels), "TIFF"), (1, 2, 2)).tolist() == [[[0, 100], [0, 255]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_transparent_pixels_lie_over_white(mode):
    if mode in ("RGBA", "LA"):
        clear = (0, 0, 0, 0) if mode == "RGBA" else (0, 0)
        data = file_of(Image.new(mode, (4, 4), clear))
    else:
        picture = Image.new(mode, (4, 4), 0)
        data = file_of(picture, transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert (decoded(data) == 255).all()
    assert (decoded(data, (1, 4, 4)) == 255).all()


def test_half_transparent_is_half_white():
    assert (decoded(file_of(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))) == 127).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_are_brought_upright(kind, orientation):
    upright = quarters(32).resize((32, 16))
    # What the camera holds is what the orientation turns into the upright picture (EXIF 2.3, tag 274).
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    held = upright.transpose(back[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    found = decoded(file_of(held, kind, exif=exif, **options), (3, 16, 32))
    for have, want in zip(corners(found), (RED, GREEN, BLUE, WHITE), strict=True):
        assert np.abs(np.array(have) - want).max() <= 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_metadata_do_not_lose_a_picture():
    data = file_of(quarters(), "JPEG", exif=b"Exif\x00\x00MM\x00*garbage" * 3, quality=95)
    assert decoded(data).shape == (3, 4, 4)


def test_a_large_jpeg_decoded_smaller_looks_like_the_whole_one():
    draw = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    smooth = Image.fromarray(draw).resize((1600, 1200), Image.Resampling.BICUBIC)
    fast = decoded(file_of(smooth, "JPEG", quality=95, subsampling=0), (3, 100, 100)).astype(int)
    slow = decoded(file_of(smooth), (3, 100, 100)).astype(int)
    assert np.abs(fast - slow).mean() < 1
    assert np.abs(fast - slow).max() < 12


def broken():
    whole = file_of(quarters(64), "JPEG")
    png = file_of(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    return {
        "empty": b"",
        "truncated JPEG": whole[: len(whole) // 2],
        "truncated PNG": png[: len(png) // 2],
        "header alone": png[:40],
        "text": b"<html>not found</html>" * 20,
        "zeros": bytes(1000),
    }


@pytest.mark.parametrize("kind", list(broken()))
def test_what_is_no_whole_picture_is_corrupt_with_a_reason(kind):
    found = decode(broken()[kind], (3, 4, 4), middle(4, 4))
    assert isinstance(found, Corrupt)
    assert found.reason
    assert "\n" not in found.reason


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\x00", b"BM"]),
)
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_no_bytes_at_all_do_more_than_be_corrupt(data, head):
    found = decode(head + data, (1, 2, 2), middle(2, 2))
    assert isinstance(found, Corrupt) or found.shape == (1, 2, 2)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_decompression_bomb_is_not_unpacked(side):
    # Flat, so that a small file unpacks to 100 or 400 million pixels, above Pillow's own 89.
    bomb = file_of(Image.new("1", (side, side)), compress_level=9)
    assert len(bomb) < 2**20
    found = decode(bomb, (1, 4, 4), middle(4, 4))
    assert isinstance(found, Corrupt)
    assert "pixels" in found.reason


# --- random changes --------------------------------------------------------------------------------------------------


def numbered(n=5, size=8):
    """Pictures of which each pixel is another."""
    return torch.from_numpy(np.random.default_rng(1).integers(1, 256, (n, 3, size, size), dtype=np.uint8))


def test_random_numbers_are_uniform_and_depend_on_seed_epoch_and_index_alone():
    whole = uniforms(3, 4, 0, 20_000)
    for index in (17, 3, 9_999):
        assert np.array_equal(uniforms(3, 4, index), whole[index : index + 1])
    assert np.array_equal(uniforms(3, 4, 100, 50), whole[100:150])
    assert whole.min() >= 0
    assert whole.max() < 1
    assert np.abs(whole.mean(0) - 1 / 2).max() < 0.01
    assert np.abs((whole**2).mean(0) - 1 / 3).max() < 0.01
    # Neighbours in index, column, epoch and seed have nothing to do with each other.
    flat = whole.ravel()
    for other in (flat[1:], whole[1:].ravel(), uniforms(3, 5, 0, 20_000).ravel(),
                  uniforms(4, 4, 0, 20_000).ravel()):  # fmt: skip
        assert abs(np.corrcoef(flat[: len(other)], other)[0, 1]) < 0.02
    # Resized crops draw more numbers of each: no image shares any with another.
    more = np.stack([crop_uniforms(0, 0, index) for index in range(100)])
    assert np.array_equal(crop_uniforms(0, 0, 7), more[7])
    assert len(np.unique(np.concatenate([more.ravel(), uniforms(0, 0, 0, 100).ravel()]))) == 4400


@pytest.mark.parametrize("augment", ["flip", "crop-flip"])
def test_images_in_memory_are_changed_as_files_are(augment):
    images = numbered(12)
    for number in (0, 1):
        preparation = Preparation((3, 8, 8), augment, seed=7, number=number)
        files = [file_of(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images]
        expected = np.stack([preparation.picture(index, data) for index, data in enumerate(files)])
        assert np.array_equal(augmented(images, uniforms(7, number, 0, 12), augment).numpy(), expected)


def test_flips_mirror_half_of_the_images_and_crops_move_them_by_up_to_four_pixels():
    images = numbered(1).expand(2000, -1, -1, -1).contiguous()
    flipped = augmented(images, uniforms(0, 0, 0, 2000), "flip")
    same, mirrored = ((flipped == other).flatten(1).all(1) for other in (images, images.flip(3)))
    assert (same | mirrored).all()
    assert 900 < int(same.sum()) < 1100
    moved = augmented(images, uniforms(0, 0, 0, 2000), "crop-flip")
    padded = torch.nn.functional.pad(images[:1], (4,) * 4)
    found = {}
    for flip in (False, True):
        for top in range(9):
            for left in range(9):
                part = padded[..., top : top + 8, left : left + 8]
                found[flip, top, left] = int((moved == (part.flip(3) if flip else part)).flatten(1).all(1).sum())
    assert sum(found.values()) == 2000
    assert min(found.values()) >= 1  # 12 are expected of each


def test_resized_crops_are_distributed_as_those_of_torchvision():
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    picture = torch.empty(3, 100, 120)
    theirs = [RandomResizedCrop.get_params(picture, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(12_000)]
    ours = [_random_part(crop_uniforms(0, 0, index), 16, 16)(120, 100) for index in range(12_000)]
    have = np.array(ours)
    want = np.array([(left, top, left + width, top + height) for top, left, height, width in theirs])
    for boxes in (have, want):
        assert boxes.min() >= 0
        assert (boxes[:, 2:] <= (120, 100)).all()
    have, want = (
        np.column_stack([boxes, np.prod(boxes[:, 2:] - boxes[:, :2], 1) / 12_000,
                         np.divide(*(boxes[:, 2:] - boxes[:, :2]).T)]) for boxes in (have, want)
    )  # fmt: skip
    for part in (10, 50, 90):
        spread = want.std(0)
        assert (np.abs(np.percentile(have, part, axis=0) - np.percentile(want, part, axis=0)) < 0.15 * spread).all()


def test_the_part_of_a_resized_crop_fills_the_image():
    ramp = np.zeros((100, 120, 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(120) * 2, np.arange(100)[:, None] * 2
    for number in range(20):
        preparation = Preparation((3, 16, 16), "resized-crop", seed=1, number=number)
        found = preparation.picture(5, file_of(Image.fromarray(ramp))).astype(float)
        left, top, right, bottom = _random_part(crop_uniforms(1, number, 5), 16, 16)(120, 100)
        if uniforms(1, number, 5)[0, 0] < 0.5:
            found = found[:, :, ::-1]
        # A ramp stays a ramp, and its value at the middle of a pixel is that of the part's.
        assert np.abs(found[0, 8, 4:12] - 2 * (left + (np.arange(4, 12) + 0.5) * (right - left) / 16 - 0.5)).max() < 1.5
        assert np.abs(found[1, 4:12, 8] - 2 * (top + (np.arange(4, 12) + 0.5) * (bottom - top) / 16 - 0.5)).max() < 1.5


def test_a_picture_too_narrow_for_any_crop_gives_its_middle():
    stripe = np.zeros((4, 400, 3), dtype=np.uint8)
    stripe[:, 198:202] = 255
    found = [Preparation((3, 4, 4), "resized-crop", number=number).picture(0, file_of(Image.fromarray(stripe)))
             for number in range(20)]  # fmt: skip
    assert any((each == 255).all() for each in found)


def test_an_augmented_set_is_changed_in_epochs_only_and_the_same_over_any_number_of_processes():
    images = ImageSet("numbered", numbered(11), torch.arange(11) % 2, ("a", "b"))
    source = AugmentedSet(images, "crop-flip")
    whole = list(source.epoch(2, 3, 4, Share()))
    plain = list(images.epoch(2, 3, 4, Share()))
    for processes in (2, 3):
        shares = [list(source.epoch(2, 3, 4, Share(rank, processes))) for rank in range(processes)]
        for number, batch in enumerate(whole):
            for rank in range(processes):
                assert torch.equal(shares[rank][number].images, batch.images[rank::processes])
                assert torch.equal(shares[rank][number].labels, plain[number].labels[rank::processes])
    assert not torch.equal(whole[0].images, plain[0].images)
    assert not torch.equal(whole[0].images, next(source.epoch(2, 4, 4, Share())).images)
    assert torch.equal(torch.cat([batch.images for batch in source.once(4, Share())]), images.images)
