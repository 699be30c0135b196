"""Storage that fails for a moment costs no picture and no bit; one that fails for good ends the pass in one line."""

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from failing_storage import Moody, failing_location

from raygen.data import PictureStream, Share, ThreadReader, list_folder, list_parquet
from raygen.data.parquet_files import read_rows
from raygen.errors import DataError, StoreError

SHAPE = (3, 4, 5)
KINDS = ("folder", "parquet")


@pytest.fixture
def listings(pictures):
    """The same pictures as files of their own and as rows, with one of them corrupt."""
    pictures.folder("folder/train", {"cat": 9, "dog": 14})
    pictures.folder("folder/test", {"cat": 3, "dog": 4}, first=500)
    (pictures.root / "folder/train/cat/00003.png").write_bytes(b"no picture")
    pictures.parquet("parquet/train-0.parquet", [0, 1, 2] * 5, files={3: b"no picture"})
    pictures.parquet("parquet/train-1.parquet", [2, 1, 0] * 3, first=15, rows=3)
    pictures.parquet("parquet/test-0.parquet", [2, 1, 0, 0, 2], first=500)
    return {
        "folder": list_folder(str(pictures.root / "folder"))[0],
        "parquet": list_parquet(str(pictures.root / "parquet"))[0],
    }


def on(moody, listing, **values):
    """The same listing on storage that fails."""
    if hasattr(listing, "files"):
        location = failing_location(moody, listing.files.location.root, **values)
        return replace(listing, files=replace(listing.files, location=location))
    return replace(listing, location=failing_location(moody, listing.location.root, **values))


def stream(listing, **values):
    return PictureStream(listing, SHAPE, corrupt_limit=1, reader=ThreadReader(1), **values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET])
def test_a_passing_failure_costs_no_picture_and_no_bit(listings, kind, number):
    moody = Moody(number, every=5)
    plain, failing = stream(listings[kind]), stream(on(moody, listings[kind]))
    for epoch in (0, 1):
        expected, found = (list(source.epoch(7, epoch, 6, Share())) for source in (plain, failing))
        assert len(found) == len(expected)
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
        assert len(failing.skipped) == len(plain.skipped) == 1, "the picture that is corrupt, and no other"
    assert moody.failed > 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("number", "waits"), [(errno.EIO, (0.0, 0.0)), (errno.EACCES, (1000.0,))])
def test_storage_that_fails_for_good_ends_the_pass_in_one_line(listings, kind, number, waits):
    moody = Moody(number, every=1)
    failing = stream(on(moody, listings[kind], waits=waits))
    with pytest.raises(
        StoreError, match=r"^moody://pictures: train\S+ cannot be read .*the storage went away.*; "
    ) as caught:
        list(failing.epoch(7, 0, 6, Share()))
    assert "\n" not in str(caught.value)
    assert failing.skipped == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_halfway_through_a_pass_is_never_taken_for_corrupt(listings, kind):
    # Every call but the first dozen fails, whatever it is: opening, or reading the part of a file.
    moody = Moody(every=1)
    calls = iter(range(12))
    moody.maybe = lambda every=moody.maybe: None if next(calls, None) is not None else every()
    failing = PictureStream(on(moody, listings[kind]), SHAPE, corrupt_limit=1000, reader=ThreadReader(1))
    with pytest.raises(StoreError, match="cannot be read"):
        list(failing.epoch(7, 0, 2, Share()))


def test_labels_and_metadata_of_parquet_files_are_tried_again(listings):
    rows, root = listings["parquet"].files, listings["parquet"].files.location.root
    moody = Moody(every=4)
    again = read_rows(failing_location(moody, root), "train", rows.files, None, None)
    assert moody.failed >= 2
    assert np.array_equal(again.rows.group_starts, rows.group_starts)
    assert again.labels.tolist() == [0, 1, 2] * 5 + [2, 1, 0] * 3
    with pytest.raises(StoreError, match=r"train-\d\.parquet cannot be read .*see that the storage answers"):
        read_rows(failing_location(Moody(every=1), root), "train", rows.files, None, None)


def test_bytes_of_a_parquet_file_that_were_read_and_make_no_sense_are_not_waited_for(listings):
    listing = listings["parquet"]
    root = Path(listing.files.location.root)
    (root / "train-1.parquet").write_bytes(bytes(1000))
    with pytest.raises(DataError, match=r"train-1\.parquet: cannot be read .*; give whole Parquet files"):
        list(stream(on(Moody(every=10**9), listing, waits=(1000.0,))).epoch(7, 0, 6, Share()))


def test_a_file_that_is_shorter_than_it_was_is_no_shorter_picture(tmp_path):
    (tmp_path / "a").write_bytes(bytes(100))
    location = failing_location(Moody(every=10**9), tmp_path)
    with location.open("a") as opened:
        (tmp_path / "a").write_bytes(bytes(50))
        assert opened.read(10) == bytes(10)
        opened.seek(60)
        with pytest.raises(StoreError, match="0 bytes came, of 40"):
            opened.read()
