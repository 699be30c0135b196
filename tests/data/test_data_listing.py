"""Which pictures a folder or Parquet files hold, on disk and behind a URI; what is wrong with them, in one line."""

import json
import socket
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen.data import DataSettings, Share, load_data, open_data
from raygen.data.folder import _listed, list_folder
from raygen.data.listing import open_folder
from raygen.data.parquet import list_parquet
from raygen.errors import DataError
from raygen.storage import Location

SHAPE = (3, 4, 5)


def numbers(pictures, listing):
    """The pictures of a listing, by what is to be seen on them."""
    import numpy as np

    from raygen.data.decoding import decode, middle

    files = listing.read(np.arange(len(listing.labels)))
    return [pictures.number_of(decode(data, SHAPE, middle(5, 4))) for data in files]


# --- folders ---------------------------------------------------------------------------------------------------------


def test_folders_below_a_class_belong_to_it_and_other_files_to_none(pictures):
    pictures.folder("cat", {"a/deep": 1, "b": 1}, first=1)
    pictures.folder(".", {"cat": 3, "dog": 5}, first=10)
    (pictures.root / "notes.txt").write_text("no picture")
    (pictures.root / "dog" / "notes.txt").write_text("no picture")
    pictures.folder(".cache", {"x": 2})
    train, test = list_folder(str(pictures.root))
    assert train.class_names == ("cat", "dog")
    found = dict(zip(numbers(pictures, train) + numbers(pictures, test),
                     train.labels.tolist() + test.labels.tolist(), strict=True))  # fmt: skip
    assert found == {1: 0, 2: 0, 10: 0, 11: 0, 12: 0, 13: 1, 14: 1, 15: 1, 16: 1, 17: 1}


def test_classes_and_pictures_are_numbered_as_torchvision_numbers_them(pictures):
    from torchvision.datasets import ImageFolder

    pictures.folder(".", {"dog": 3, "cat": 2, "Emu": 2})
    pictures.folder("dog", {"0": 2, "a": 1, "a-b": 1, "a/b": 2}, first=50)
    theirs = ImageFolder(str(pictures.root))
    ours = _listed(open_folder(str(pictures.root)), "")
    assert list(ours.class_names) == theirs.classes
    assert [ours.title(index) for index in range(len(ours.labels))] == [path for path, _ in theirs.samples]
    assert ours.labels.tolist() == theirs.targets


def test_a_linked_class_folder_is_followed(pictures, tmp_path):
    pictures.folder("elsewhere", {"dog": 5})
    pictures.folder("set", {"cat": 5}, first=5)
    (pictures.root / "set" / "dog").symlink_to(pictures.root / "elsewhere" / "dog")
    train, test = list_folder(str(pictures.root / "set"))
    assert (len(train.labels), len(test.labels), train.class_names) == (8, 2, ("cat", "dog"))


def test_pictures_without_label_join_the_training_ones(pictures):
    pictures.folder("train", {"cat": 3, "dog": 4})
    pictures.folder("val", {"cat": 1, "dog": 1}, first=100)
    pictures.folder("unlabelled", {"web/2024": 5, "web": 2}, first=200)
    train, test = list_folder(str(pictures.root))
    assert train.labels.tolist().count(-1) == 7
    found = dict(zip(numbers(pictures, train), train.labels.tolist(), strict=True))
    assert found == {**dict.fromkeys(range(3), 0), **dict.fromkeys(range(3, 7), 1),
                     **dict.fromkeys(range(200, 207), -1)}  # fmt: skip
    assert test.labels.tolist().count(-1) == 0
    assert train.class_names == test.class_names == ("cat", "dog")
    assert [len(part.labels) for part in list_folder(str(pictures.root), limit=4)] == [8, 2]
    images, _ = load_data(DataSettings(data="folder", data_root=str(pictures.root)), SHAPE)
    assert images.labels.tolist() == train.labels.tolist()


def test_classes_beside_unlabelled_are_split(pictures):
    pictures.folder(".", {"cat": 5, "dog": 10})
    pictures.folder("unlabelled", {"a": 3}, first=100)
    train, test = list_folder(str(pictures.root))
    assert (train.class_names, train.labels.tolist().count(-1)) == (("cat", "dog"), 3)
    assert sorted(numbers(pictures, train) + numbers(pictures, test)) == [*range(15), 100, 101, 102]


def test_a_lone_train_folder_is_split(pictures):
    pictures.folder("train", {"cat": 5, "dog": 10})
    train, test = list_folder(str(pictures.root))
    assert (train.class_names, len(train.labels), len(test.labels)) == (("cat", "dog"), 12, 3)


@pytest.mark.parametrize("split", [True, False])
def test_a_class_without_pictures_is_named(pictures, split):
    pictures.folder("train" if split else ".", {"cat": 5, "dog": 5})
    (pictures.root / ("train" if split else ".") / "emu").mkdir()
    if split:
        pictures.folder("test", {"cat": 1, "dog": 1, "emu": 1})
    with pytest.raises(DataError, match=r"class 'emu' has no picture for training; give it pictures"):
        list_folder(str(pictures.root))


def test_a_class_may_be_without_pictures_for_testing(pictures):
    pictures.folder("train", {"cat": 5, "dog": 5})
    pictures.folder("test", {"cat": 1})
    (pictures.root / "test" / "dog").mkdir()
    assert list_folder(str(pictures.root))[1].labels.tolist() == [0]
    (pictures.root / "test" / "dog").rmdir()
    with pytest.raises(DataError, match="class 'dog' is in one split only"):
        list_folder(str(pictures.root))


def test_an_empty_split_is_named(pictures):
    pictures.folder("train", {"cat": 5, "dog": 5})
    (pictures.root / "test").mkdir()
    with pytest.raises(DataError, match=r"data_root .*/test: no pictures"):
        list_folder(str(pictures.root))


# --- Parquet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [
    ("train-0.parquet", "test-0.parquet"),
    ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
    ("train/a.parquet", "val/b.parquet"),
    ("data/train/a.parquet", "data/test/b.parquet"),
    ("train.parquet", "test.parquet"),
])  # fmt: skip
def test_splits_are_found_by_the_names_of_files_and_folders(pictures, names):
    pictures.parquet(names[0], [0, 1, 2] * 3)
    pictures.parquet(names[1], [2, 1], first=100)
    pictures.parquet("other-0.parquet", [0, 0], first=300)
    train, test = list_parquet(str(pictures.root))
    assert (numbers(pictures, train), train.labels.tolist()) == (list(range(9)), [0, 1, 2] * 3)
    assert (numbers(pictures, test), test.labels.tolist()) == ([100, 101], [2, 1])
    assert train.class_names == test.class_names == ("cat", "dog", "emu")


def test_without_files_for_testing_a_fifth_of_each_class_is_taken(pictures):
    pictures.parquet("train-0.parquet", [0, 1, 2, -1] * 10)
    train, test = list_parquet(str(pictures.root))
    assert test.labels.bincount().tolist() == [2, 2, 2]
    assert sorted(numbers(pictures, train) + numbers(pictures, test)) == list(range(40))
    assert train.labels.tolist() == [[0, 1, 2, -1][number % 4] for number in numbers(pictures, train)]


def test_a_test_split_without_labels_is_passed_over(pictures):
    pictures.parquet("train-0.parquet", [0, 1, 2] * 3)
    pictures.parquet("test-0.parquet", [-1] * 5, first=100)
    pictures.parquet("validation-0.parquet", [0, 1], first=200)
    assert numbers(pictures, list_parquet(str(pictures.root))[1]) == [200, 201]


@pytest.mark.parametrize(("image", "label"), [("img", "fine_label"), ("scan", "kind"), ("image", "label")])
def test_columns_are_found_by_the_schema_or_their_usual_names(pictures, image, label):
    pictures.parquet("train-0.parquet", [0, 1, 2] * 3, image=image, label=label)
    pictures.parquet("test-0.parquet", [0, 1, 2], first=100, image=image, label=label)
    train, test = list_parquet(str(pictures.root))
    assert (train.files.column, train.labels.tolist()) == (image, [0, 1, 2] * 3)
    assert numbers(pictures, test) == [100, 101, 102]


def test_columns_that_cannot_be_found_are_asked_for(pictures):
    pictures.parquet("train-0.parquet", [0, 1] * 5, image="scan", label="kind", names=None)
    root = str(pictures.root)
    with pytest.raises(DataError, match=r"no column image or img .*; give image_column, one of scan, kind"):
        list_parquet(root)
    with pytest.raises(DataError, match=r"no column label .*; give label_column, one of scan, kind"):
        list_parquet(root, image_column="scan")
    with pytest.raises(DataError, match=r"no column 'skan'; did you mean scan"):
        list_parquet(root, image_column="skan")
    settings = DataSettings(data="parquet", data_root=root, image_column="scan", label_column="kind")
    assert [len(images) for images in load_data(settings, SHAPE)] == [8, 2]


@pytest.mark.parametrize(("values", "names", "labels"), [
    (["dog", "cat", "dog", None, "cat"], ("cat", "dog"), [1, 0, 1, -1, 0]),
    ([30, 7, 30, None, -1], ("7", "30"), [1, 0, 1, -1, -1]),
])  # fmt: skip
def test_labels_that_no_schema_names_are_their_own_names(pictures, values, names, labels):
    pictures.parquet("train-0.parquet", values, names=None)
    pictures.parquet("test-0.parquet", values[:2], names=None)
    train, test = list_parquet(str(pictures.root))
    assert train.class_names == test.class_names == names
    assert (train.labels.tolist(), test.labels.tolist()) == (labels, labels[:2])


def test_pictures_may_be_a_binary_column(pictures):
    table = pa.table({"image": [pictures.png(number) for number in range(10)], "label": [0, 1] * 5})
    pq.write_table(table, pictures.root / "train-0.parquet")
    train, test = list_parquet(str(pictures.root))
    assert sorted(numbers(pictures, train) + numbers(pictures, test)) == list(range(10))


def test_a_limit_takes_rows_of_few_groups(pictures):
    pictures.parquet("train-0.parquet", [0, 1, 2] * 100, rows=5)
    pictures.parquet("test-0.parquet", [0, 1, 2] * 2)
    train, test = list_parquet(str(pictures.root), limit=40)
    assert (len(train.labels), len(test.labels)) == (40, 6)
    found = numbers(pictures, train)
    assert found == sorted(set(found))
    assert 20 <= len({number // 5 for number in found}) <= 32
    assert train.labels.tolist() == [number % 3 for number in found]
    assert found == numbers(pictures, list_parquet(str(pictures.root), limit=40)[0])
    assert len(list_parquet(str(pictures.root), limit=999)[0].labels) == 300
    stream, _ = open_data(DataSettings(data="parquet", data_root=str(pictures.root), limit=40, stream=True), SHAPE)
    given = [pictures.number_of(image) for batch in stream.epoch(0, 0, 7, Share()) for image in batch.images.numpy()]
    assert sorted(given) == found


@pytest.mark.parametrize(("labels", "message"), [
    ([0, 1, 2, 3, 0], r"train-0\.parquet, row 3: label 3 is out of range; labels are 0 to 2, or -1 for none"),
    ([0, 1, 2, 1, -2], r"row 4: label -2 is out of range"),
    ([0, 1, 0, 1], r"class 'emu' has no picture for training"),
    ([], r"the train split is empty"),
    ([0.5, 1.0], r"column 'label' is double, not labels; give a column of integers or strings"),
])  # fmt: skip
def test_labels_that_cannot_be_are_named(pictures, labels, message):
    pictures.parquet("train-0.parquet", labels if labels else pa.array([], pa.int64()))
    with pytest.raises(DataError, match=message):
        list_parquet(str(pictures.root))


def test_splits_that_do_not_go_together_are_named(pictures):
    pictures.parquet("train-0.parquet", [0, 1, 2] * 3)
    pictures.parquet("test-0.parquet", [0, 1], names=("cat", "dog"))
    with pytest.raises(DataError, match="class 'emu' is in one split only"):
        list_parquet(str(pictures.root))
    twins = ("cat", "dog", "dog")
    pictures.parquet("train-0.parquet", [0, 1, 2] * 3, names=twins)
    pictures.parquet("test-0.parquet", [0, 1], names=twins[::-1])
    with pytest.raises(DataError, match="number their classes differently"):
        list_parquet(str(pictures.root))
    pictures.parquet("train-0.parquet", ["cat", "dog"], names=None)
    pictures.parquet("test-0.parquet", ["cat", "emu"], names=None)
    with pytest.raises(DataError, match=r"test-0\.parquet, row 1: label 'emu' is out of range; labels are among those"):
        list_parquet(str(pictures.root))
    pictures.parquet("train-0.parquet", [3, 4, -5, None, -1], names=None)
    with pytest.raises(DataError, match=r"train-0\.parquet, row 2: label -5 is out of range"):
        list_parquet(str(pictures.root))
    pictures.parquet("train-0.parquet", ["cat", "dog"], names=None)
    pictures.parquet("test-0.parquet", pa.array([], pa.string()), names=None)
    with pytest.raises(DataError, match="the test split is empty"):
        list_parquet(str(pictures.root))


def test_columns_that_hold_no_pictures_are_named(pictures):
    table = pa.table({"image": ["a.png", "b.png"], "label": [0, 1]})
    pq.write_table(table, pictures.root / "train-0.parquet")
    with pytest.raises(DataError, match=r"column 'image' is string, not images; give a column of encoded pictures"):
        list_parquet(str(pictures.root))
    pictures.parquet("train-0.parquet", [0, 1, 2])
    pictures.parquet("train-1.parquet", [0, 1, 2], label="kind")
    with pytest.raises(DataError, match=r"train-1\.parquet: no column 'label'"):
        list_parquet(str(pictures.root))


def test_torn_files_are_named(pictures):
    path = pictures.parquet("train-0.parquet", [0, 1, 2] * 30)
    pictures.parquet("test-0.parquet", [0, 1, 2])
    whole = path.read_bytes()
    train, _ = open_data(DataSettings(data="parquet", data_root=str(pictures.root), stream=True), SHAPE)
    path.write_bytes(bytes(len(whole) // 2) + whole[len(whole) // 2 :])
    with pytest.raises(DataError, match=r"train-0\.parquet: cannot be read"):
        list(train.epoch(0, 0, 4, Share()))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-0\.parquet: cannot be read .*; give whole Parquet files"):
        list_parquet(str(pictures.root))


def test_a_row_group_that_no_memory_holds_is_refused(pictures, monkeypatch):
    monkeypatch.setattr("raygen.data.parquet_files.GROUP_LIMIT", 500)
    pictures.parquet("train-0.parquet", [0, 1, 2] * 30, rows=50)
    with pytest.raises(DataError, match=r"a row group of [\d,]+ bytes, above 500; write the file with smaller"):
        list_parquet(str(pictures.root))


def test_metadata_that_are_no_json_are_passed_over(pictures):
    path = pictures.parquet("train-0.parquet", [0, 1] * 5, names=None)
    table = pq.read_table(path)
    for written in (b"{", b"[]", json.dumps({"info": {}}).encode(), json.dumps({"info": {"features": 3}}).encode()):
        pq.write_table(table.replace_schema_metadata({b"huggingface": written}), path)
        assert list_parquet(str(pictures.root))[0].class_names == ("0", "1")


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_absent_folders_and_unknown_addresses_are_named(tmp_path, kind):
    def load(root):
        load_data(DataSettings(data=kind, data_root=root), SHAPE)

    with pytest.raises(DataError, match=r"no storage behind this address .*give a path or a URI that pyarrow\.fs"):
        load("ftp://somewhere/pictures")
    with pytest.raises(DataError, match=r"data_root .*/absent: no pictures"):
        load(str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"no pictures|no Parquet files for training"):
        load(str(tmp_path))


def test_a_password_is_not_repeated():
    with pytest.raises(DataError) as caught:
        open_folder("ftp://me:secret@host/pictures?token=secret")
    assert "data_root ftp://host/pictures: " in str(caught.value)
    assert "secret" not in str(caught.value)
    assert Location.of("s3://me:secret@bucket/pictures?region=us-east-1").title == "s3://bucket/pictures"


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_file_uri_is_as_good_as_a_path(pictures, kind):
    if kind == "folder":
        pictures.folder(".", {"cat": 5, "dog": 10})
    else:
        pictures.parquet("train-0.parquet", [0, 1, 2] * 5)
    pairs = [load_data(DataSettings(data=kind, data_root=root), SHAPE)
             for root in (str(pictures.root), pictures.root.as_uri())]  # fmt: skip
    for images, others in zip(*pairs, strict=True):
        assert (images.images == others.images).all()
        assert images.class_names == others.class_names


@pytest.fixture(scope="module")
def bucket():
    """A bucket of a real S3 server on loopback, as a URI."""
    pytest.importorskip("moto.server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        try:
            for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("EC2_METADATA_DISABLED", "true")):
                patch.setenv(f"AWS_{name}", value)
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert server.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            options = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
            yield "s3://pictures/{}?" + options
        finally:
            server.terminate()


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_pictures_behind_a_remote_protocol_are_those_on_disk(pictures, bucket, kind):
    from pyarrow import fs

    if kind == "folder":
        pictures.folder("train", {"cat": 9, "dog": 14})
        pictures.folder("test", {"cat": 2, "dog": 1}, first=500)
    else:
        pictures.parquet("data/train-0.parquet", [0, 1, 2] * 9)
        pictures.parquet("data/test-0.parquet", [0, 1, 2], first=500)
    uri = bucket.format(kind)
    remote, root = fs.FileSystem.from_uri(uri)
    fs.copy_files(str(pictures.root), root, destination_filesystem=remote)
    near, far = (open_data(DataSettings(data=kind, data_root=root, stream=True), SHAPE)
                 for root in (str(pictures.root), uri))  # fmt: skip
    for one, other in zip(near, far, strict=True):
        for batch, same in zip(one.epoch(0, 0, 6, Share(1, 2)), other.epoch(0, 0, 6, Share(1, 2)), strict=True):
            assert (batch.images == same.images).all()
            assert (batch.labels == same.labels).all()
    (spoilt,) = (
        name for name in Location.of(uri).names(recursive=True) if name.endswith(("00003.png", "train-0.parquet"))
    )
    with remote.open_output_stream(f"{root}/{spoilt}") as stream:
        stream.write(b"no picture")
    if kind == "folder":
        list(far[0].epoch(0, 0, 6, Share()))
        assert far[0].skipped == ("s3://pictures/folder/train/cat/00003.png",)
    else:
        with pytest.raises(DataError, match=r"s3://pictures/parquet/data/train-0\.parquet: cannot be read"):
            list(far[0].epoch(0, 0, 6, Share()))
