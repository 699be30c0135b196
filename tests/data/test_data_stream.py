"""What a stream gives: every picture once an epoch, in an order that seed and epoch decide, over any shares."""

import logging
import threading
from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from raygen.data import DataSettings, ImageSet, PictureStream, Share, ThreadReader, load_data, open_data
from raygen.data.augment import Preparation
from raygen.data.folder import list_folder
from raygen.data.order import Groups, Plan, batch_sizes, plan_epoch, plan_grouped_epoch, plan_grouped_once, plan_once
from raygen.data.parquet import list_parquet
from raygen.data.parquet_files import ParquetRows
from raygen.errors import DataError, SettingsError, StoreError

SHAPE = (3, 4, 5)


def open_stream(root, kind="folder", shape=SHAPE, **values):
    return open_data(DataSettings(data=kind, data_root=str(root), stream=True, **values), shape)


def numbers_in(pictures, batches):
    return [pictures.number_of(image) for batch in batches for image in batch.images.numpy()]


def same(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        for one, other in zip(batches, others, strict=True)
    )


@pytest.fixture
def folders(pictures):
    pictures.folder("train", {"cat": 9, "dog": 14})
    pictures.folder("test", {"cat": 3, "dog": 4}, first=500)
    return pictures


@pytest.fixture
def files(pictures):
    pictures.parquet("data/train-00000-of-00002.parquet", [0, 1, 2] * 5)
    pictures.parquet("data/train-00001-of-00002.parquet", [2, 1, 0] * 3, first=15, rows=3)
    pictures.parquet("data/test-00000-of-00001.parquet", [2, 1, 0, 0, 2], first=500)
    return pictures


# --- folders: as in memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_a_streamed_folder_gives_the_batches_of_one_in_memory_bit_for_bit(folders, processes):
    streams = open_stream(folders.root)
    sets = load_data(DataSettings(data="folder", data_root=str(folders.root)), SHAPE)
    for stream, images in zip(streams, sets, strict=True):
        assert isinstance(images, ImageSet)
        assert isinstance(stream, PictureStream)
        assert torch.equal(stream.labels, images.labels)
        assert (stream.class_names, len(stream), stream.name) == (images.class_names, len(images), images.name)
        assert stream.steps(6, processes) == images.steps(6, processes)
        for rank in range(processes):
            share = Share(rank, processes)
            assert same(list(stream.epoch(3, 2, 6, share)), list(images.epoch(3, 2, 6, share)))
            assert same(list(stream.once(4, share)), list(images.once(4, share)))


@pytest.mark.parametrize("augment", ["flip", "crop-flip"])
def test_changes_are_the_same_streamed_and_in_memory(folders, augment):
    streamed, _ = open_stream(folders.root, augment=augment)
    held, _ = open_data(DataSettings(data="folder", data_root=str(folders.root), augment=augment), SHAPE)
    assert not isinstance(held, PictureStream)
    assert same(list(streamed.epoch(3, 2, 6, Share(1, 2))), list(held.epoch(3, 2, 6, Share(1, 2))))


def test_threads_do_not_change_what_comes_out(folders):
    stream, _ = open_stream(folders.root, shape=(3, 16, 16), augment="resized-crop")
    wanted = list(stream.read_by(ThreadReader(1)).epoch(0, 1, 8, Share()))
    assert same(list(stream.read_by(ThreadReader(7)).epoch(0, 1, 8, Share())), wanted)
    assert not same(list(stream.epoch(0, 2, 8, Share())), wanted)
    assert not same(list(stream.epoch(1, 1, 8, Share())), wanted)


def test_a_pass_may_be_left_and_begun_anew(folders):
    stream, _ = open_stream(folders.root)
    before = threading.active_count()
    batches = stream.epoch(0, 0, 4, Share())
    next(batches)
    batches.close()
    assert threading.active_count() == before
    assert len(numbers_in(folders, stream.epoch(0, 0, 4, Share()))) == 23


def test_a_stream_reads_only_a_batch_ahead(folders):
    stream, _ = open_stream(folders.root)
    asked = []

    class Counted:
        def __getattr__(self, name):
            return getattr(stream.listing, name)

        def read(self, indices):
            asked.extend(indices.tolist())
            return stream.listing.read(indices)

    reader = ThreadReader(1)
    for given_out, _ in enumerate(reader(Counted(), plan_epoch(23, 0, 0, 2, Share()), Preparation(SHAPE)), 1):
        # A batch is 2, and a thread has 4 at least; files and pictures are each so far ahead.
        assert len(asked) <= given_out + 2 * 4 + 1
    assert sorted(asked) == list(range(23))


def test_batches_for_a_gpu_are_not_copied_twice(folders):
    stream, _ = open_stream(folders.root)
    moved = stream.to(torch.device("cpu"))
    assert same(list(moved.once(8, Share())), list(stream.once(8, Share())))
    assert moved.labels.device.type == "cpu"


# --- Parquet: row groups ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_every_row_is_given_once_an_epoch_over_all_shares_in_batches_of_the_size_asked_for(files, processes):
    train, test = open_stream(files.root, "parquet")
    labels = [*[0, 1, 2] * 5, *[2, 1, 0] * 3]
    for number in (0, 1):
        shares = [list(train.epoch(5, number, 7, Share(rank, processes))) for rank in range(processes)]
        assert [len(batches) for batches in shares] == [train.steps(7, processes)] * processes
        sizes = [sum(len(share[step].labels) for share in shares) for step in range(len(shares[0]))]
        assert sizes == [7, 7, 7, 3]
        found = [number for share in shares for number in numbers_in(files, share)]
        assert sorted(found) == list(range(24))
        given_labels = [label for share in shares for batch in share for label in batch.labels.tolist()]
        assert given_labels == [labels[number] for number in found]
    once = [number for rank in range(processes) for number in numbers_in(files, test.once(2, Share(rank, processes)))]
    assert once == [500, 501, 502, 503, 504]


def test_the_order_of_rows_depends_on_seed_and_epoch(files):
    train, _ = open_stream(files.root, "parquet")
    orders = [numbers_in(files, train.epoch(*start, 7, Share())) for start in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3
    # Rows of different groups lie beside each other.
    near = np.abs(np.diff(orders[0]))
    assert (near > 4).sum() > 8


def test_in_memory_and_once_rows_are_in_the_order_of_the_files(files):
    train, _ = load_data(DataSettings(data="parquet", data_root=str(files.root)), SHAPE)
    assert [files.number_of(image) for image in train.images.numpy()] == list(range(24))
    assert train.class_names == ("cat", "dog", "emu")


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    size=st.integers(1, 40),
    processes=st.integers(1, 6),
    seed=st.integers(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_any_groups_over_any_shares_are_read_whole(counts, size, processes, seed):
    groups = Groups(np.concatenate([[0], np.cumsum(counts)]), np.full(len(counts), 20 * 2**20))
    n = sum(counts)
    plans = [plan_grouped_epoch(groups, seed, 0, size, Share(rank, processes)) for rank in range(processes)]
    assert sorted(np.concatenate([plan.order for plan in plans]).tolist()) == list(range(n))
    assert [sum(sizes) for sizes in zip(*(plan.sizes for plan in plans), strict=True)] == batch_sizes(n, size)
    assert [plan.sizes for plan in plans] == [plan_epoch(n, 0, 0, size, Share(rank, processes)).sizes
                                              for rank in range(processes)]  # fmt: skip
    reads = Counter()
    for plan in plans:
        assert sum(map(len, plan.pieces())) == sum(plan.sizes)
        for piece in plan.pieces():
            touched = np.unique(np.searchsorted(groups.starts, piece, side="right"))
            assert len(touched) <= 3  # 64 MiB hold three groups of 20
            reads.update(touched.tolist())
    # A group is read by one process, but where a cut between two goes through it.
    assert sum(reads.values()) <= len(counts) + processes - 1
    once = [plan_grouped_once(groups, size, Share(rank, processes)) for rank in range(processes)]
    assert np.concatenate([plan.order for plan in once]).tolist() == list(range(n))


def test_large_row_groups_come_in_another_order_every_epoch():
    groups = Groups(np.arange(0, 202, 2), np.full(100, 64 * 2**20))
    orders = [plan_grouped_epoch(groups, *start, 8, Share()).order // 2 for start in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert np.abs(np.diff(order)).mean() > 10
    assert len({tuple(order) for order in orders}) == 3


@given(n=st.integers(0, 60), size=st.integers(1, 20), processes=st.integers(1, 5), least=st.integers(1, 70))
@settings(max_examples=100, deadline=None)
def test_pieces_may_be_joined_without_losing_any(n, size, processes, least):
    for plan in (plan_epoch(n, 0, 0, size, Share(0, processes)), plan_once(n, size, Share(processes - 1, processes))):
        joined = list(plan.pieces(least))
        assert np.array_equal(np.concatenate([plan.order[:0], *joined]), plan.order)
        assert all(len(piece) >= least for piece in joined[:-1])
        assert sum(plan.sizes) == len(plan.order)


def test_a_row_group_is_read_once_for_all_its_rows(files, monkeypatch):
    train, _ = open_stream(files.root, "parquet")
    read = Counter()
    original = ParquetRows._column

    def counting(rows, group):
        read[group] += 1
        return original(rows, group)

    monkeypatch.setattr(ParquetRows, "_column", counting)
    list(train.epoch(0, 0, 5, Share()))
    assert read == dict.fromkeys(range(7), 1)


# --- pictures that cannot be read ------------------------------------------------------------------------------------


def spoil(root, name, data=b"no picture"):
    (found,) = root.rglob(name)
    found.write_bytes(data)
    return found


def test_corrupt_pictures_are_named_counted_and_skipped_and_nothing_else_shifts(folders, caplog):
    whole, _ = open_stream(folders.root)
    wanted = [numbers_in(folders, [batch]) for batch in whole.epoch(0, 0, 6, Share())]
    spoil(folders.root, "00003.png")
    spoil(folders.root, "00011.png", b"")
    train, test = open_stream(folders.root, corrupt_limit=2)
    with caplog.at_level(logging.WARNING):
        found = [numbers_in(folders, [batch]) for batch in train.epoch(0, 0, 6, Share())]
    assert found == [[number for number in batch if number not in (3, 11)] for batch in wanted]
    assert sorted(name.rsplit("/")[-1] for name in train.skipped) == ["00003.png", "00011.png"]
    assert all(name.startswith(str(folders.root / "train")) for name in train.skipped)
    assert sorted(record.message for record in caplog.records)[0].startswith(f"{folders.root}/train/cat/00003.png: ")
    # Anew in each pass; labels still belong to their pictures.
    for batch in train.epoch(0, 1, 6, Share()):
        for number, label in zip(numbers_in(folders, [batch]), batch.labels.tolist(), strict=True):
            assert label == (number >= 9)
    assert len(train.skipped) == 2
    list(test.once(4, Share()))
    assert test.skipped == ()


@pytest.mark.parametrize("limit", [0, 1])
def test_more_corrupt_pictures_than_the_limit_are_an_error_that_names_them(folders, limit):
    for name in ("00003.png", "00011.png"):
        spoil(folders.root, name)
    train, _ = open_stream(folders.root, corrupt_limit=limit)
    with pytest.raises(DataError, match=r"000(03|11)\.png") as caught:
        list(train.epoch(0, 0, 6, Share()))
    assert "cannot be read" in str(caught.value)
    if limit:
        assert "2 pictures cannot be read, above the limit of 1" in str(caught.value)
        assert "00003.png" in str(caught.value)
        assert "00011.png" in str(caught.value)


def test_corrupt_pictures_are_left_out_of_a_set_in_memory(folders):
    spoil(folders.root, "00003.png")
    train, test = load_data(DataSettings(data="folder", data_root=str(folders.root), corrupt_limit=1), SHAPE)
    assert (len(train), len(test)) == (22, 7)
    assert sorted(folders.number_of(image) for image in train.images.numpy()) == [0, 1, 2, *range(4, 23)]
    for image, label in zip(train.images.numpy(), train.labels.tolist(), strict=True):
        assert label == (folders.number_of(image) >= 9)
    with pytest.raises(DataError, match=r"00003\.png: cannot be read"):
        load_data(DataSettings(data="folder", data_root=str(folders.root), corrupt_limit=0), SHAPE)


def test_a_picture_that_vanishes_ends_the_pass_and_is_not_taken_for_corrupt(folders):
    train, _ = open_stream(folders.root)
    (found,) = folders.root.rglob("00005.png")
    found.unlink()
    with pytest.raises(StoreError, match=r"train/cat/00005\.png cannot be read .*; see that it is there"):
        list(train.epoch(0, 0, 6, Share()))
    assert train.skipped == ()


def test_corrupt_rows_are_named_by_file_and_row(pictures):
    pictures.parquet("train-0.parquet", [0, 1, 2] * 2)
    pictures.parquet("train-1.parquet", [0, 1, 2] * 3, first=6, files={7: b"no picture", 2: None, 4: b""})
    pictures.parquet("val-0.parquet", [0, 1])
    train, _ = open_stream(pictures.root, "parquet")
    found = [number for rank in range(2) for number in numbers_in(pictures, train.epoch(0, 0, 4, Share(rank, 2)))]
    assert sorted(found) == [number for number in range(15) if number not in (8, 10, 13)]
    list(train.epoch(0, 0, 4, Share()))
    assert sorted(train.skipped) == [f"{pictures.root}/train-1.parquet, row {row}" for row in (2, 4, 7)]


# --- which is opened -------------------------------------------------------------------------------------------------


def test_pictures_stream_when_they_are_too_large_or_have_to(folders, monkeypatch):
    def kind(**values):
        train, test = open_data(DataSettings(data="folder", data_root=str(folders.root), **values), SHAPE)
        return {isinstance(source, PictureStream) for source in (train, test)}

    assert kind() == kind(stream=False) == {False}
    assert kind(stream=True) == kind(augment="resized-crop") == {True}
    monkeypatch.setattr("raygen.data.loading.MEMORY_LIMIT", 30 * 60 - 1)
    assert kind() == {True}
    monkeypatch.setattr("raygen.data.loading.MEMORY_LIMIT", 30 * 60)
    assert kind() == {False}


def test_pictures_too_large_for_memory_can_still_be_refused(folders, monkeypatch):
    huge = (3, 30_000, 30_000)
    with pytest.raises(DataError, match="30 pictures of 3x30000x30000 are 81,000,000,000 bytes"):
        load_data(DataSettings(data="folder", data_root=str(folders.root)), huge)
    train, _ = open_data(DataSettings(data="folder", data_root=str(folders.root)), huge)
    assert isinstance(train, PictureStream)


def test_what_cannot_be_streamed_or_changed_is_said(folders):
    with pytest.raises(SettingsError, match="stream: digits does not stream; leave it out"):
        open_data(DataSettings(stream=True), (1, 28, 28))
    with pytest.raises(SettingsError, match="augment = resized-crop needs whole pictures, but data = digits"):
        open_data(DataSettings(augment="resized-crop"), (1, 28, 28))
    with pytest.raises(SettingsError, match="needs whole pictures, but stream = False"):
        asked = DataSettings(data="folder", data_root=str(folders.root), stream=False, augment="resized-crop")
        open_data(asked, SHAPE)
    with pytest.raises(DataError, match="2 channels"):
        open_stream(folders.root, shape=(2, 4, 4))


def test_small_sets_open_in_memory_and_may_be_moved():
    train, test = open_data(DataSettings(), (1, 28, 28))
    moved, same_test = open_data(DataSettings(augment="crop-flip"), (1, 28, 28))
    first, changed = (next(source.epoch(0, 0, 64, Share())) for source in (train, moved))
    assert torch.equal(first.labels, changed.labels)
    assert not torch.equal(first.images, changed.images)
    assert torch.equal(test.labels, same_test.labels)
    assert moved.to(torch.device("cpu")).steps(64, 2) == 23


def test_listings_are_small_and_survive_a_process_boundary(folders, files):
    import pickle

    for listing in (list_folder(str(folders.root))[0], list_parquet(str(files.root))[0]):
        again = pickle.loads(pickle.dumps(listing))
        assert again.read(np.array([1, 0])) == listing.read(np.array([1, 0]))
        plan = listing.epoch(0, 0, 4, Share())
        assert isinstance(plan, Plan)
        assert np.array_equal(again.epoch(0, 0, 4, Share()).order, plan.order)
