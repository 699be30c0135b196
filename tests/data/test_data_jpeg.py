"""A JPEG of which a part is missing is no picture, though it ends as one; a whole one is, whatever it shows."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raygen.data import DataSettings
from raygen.data.decoding import Corrupt, decode, middle
from raygen.data.loading import load_data
from raygen.errors import DataError

END = b"\xff\xd9"
OPTIONS = [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"optimize": True},
           {"subsampling": 0}, {"quality": 30}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0" + END}]  # fmt: skip


def photograph(mode="RGB", size=(150, 100)):
    """A picture with some of everything in it."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    pixels = np.stack([rows * 2, columns, np.random.default_rng(0).integers(0, 256, rows.shape)], -1) % 256
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def jpeg(picture, **options):
    sink = io.BytesIO()
    picture.save(sink, "JPEG", **options)
    return sink.getvalue()


def read(data, side=64):
    return decode(data, (3, side, side), middle(side, side))


@pytest.mark.parametrize("options", OPTIONS, ids="".join)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("side", [16, 64])
def test_a_jpeg_that_is_cut_and_ended_is_no_picture(options, mode, side):
    whole = jpeg(photograph(mode), **options)
    assert not isinstance(read(whole, side), Corrupt)
    # The last scan of a progressive one, of which a part may be missing, holds the last bits of what is there.
    for part in (0.2, 0.3, 0.4) if "progressive" in options else (0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
        cut = whole[: int(len(whole) * part)]
        found = read(cut + END, side)
        assert isinstance(found, Corrupt), part
        assert isinstance(read(cut, side), Corrupt)


def test_a_jpeg_without_its_middle_is_no_picture():
    whole = jpeg(photograph())
    found = read(whole[: len(whole) // 2] + whole[len(whole) // 2 + 500 :])
    assert isinstance(found, Corrupt) and found.reason == "its end is missing"


@pytest.mark.parametrize("options", OPTIONS, ids="".join)
@pytest.mark.parametrize("grey", [0, 50, 100])
def test_a_picture_that_ends_in_the_very_grey_that_is_filled_in_is_whole(options, grey):
    for mode in ("RGB", "L"):
        picture = photograph(mode)
        picture.paste((128,) * 3 if mode == "RGB" else 128, (0, grey, *picture.size))
        for side in (16, 64):
            assert not isinstance(read(jpeg(picture, **options), side), Corrupt)


@pytest.mark.parametrize("mode", ["CMYK", "RGB", "L"])
def test_whole_pictures_of_any_mode_and_what_follows_them_are_read(mode):
    assert not isinstance(read(jpeg(photograph(mode))), Corrupt)
    assert not isinstance(read(jpeg(photograph(mode)) + b"\0" * 100 + END), Corrupt)
    assert not isinstance(read(jpeg(photograph(mode), comment=b"\xff\xda" * 100)), Corrupt)


@given(
    side=st.tuples(st.integers(1, 40), st.integers(1, 40)), option=st.sampled_from(OPTIONS), shade=st.integers(0, 255)
)
@settings(max_examples=200, deadline=None)
def test_no_whole_picture_is_refused(side, option, shade):
    picture = Image.effect_noise(side, 60).convert("RGB")
    picture.paste((shade, 128, 128), (side[0] // 2, side[1] // 2, *side))
    assert not isinstance(read(jpeg(picture, **option), 8), Corrupt)


def test_one_that_is_cut_is_counted_as_other_pictures_that_cannot_be_read(tmp_path):
    for number in range(20):
        folder = tmp_path / ("cat", "dog")[number % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(jpeg(photograph()))
    whole = jpeg(photograph())
    (tmp_path / "cat" / "4.jpg").write_bytes(whole[: len(whole) // 2] + END)
    asked = {"data": "folder", "data_root": str(tmp_path)}
    with pytest.raises(DataError, match=r"4\.jpg: cannot be read \(its end is missing\); replace or remove"):
        load_data(DataSettings(**asked, corrupt_limit=0), (3, 8, 8))
    train, test = load_data(DataSettings(**asked), (3, 8, 8))
    assert len(train) + len(test) == 19
