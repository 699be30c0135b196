"""Files of one split that number, type or encode their columns otherwise than each other, or than is honest."""

import io
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raygen.data import DataSettings
from raygen.data.decoding import Corrupt, decode, middle
from raygen.data.loading import load_data
from raygen.data.parquet import list_parquet
from raygen.errors import DataError

SHADES = {"cat": 60, "dog": 120, "emu": 200}
NAMES = ["cat", "dog", "emu"]


def png(value):
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (value,) * 3).save(sink, "PNG")
    return sink.getvalue()


def table(labels, *, kind=None, names=None, animals=("cat", "dog", "emu")):
    """A file of one picture of each animal, whose labels are written as ``labels`` says."""
    pictures = [{"bytes": png(SHADES[animal]), "path": ""} for animal in animals]
    made = pa.table({"image": pictures, "label": pa.array(labels, kind)})
    if names is None:
        return made
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    return made.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})


def write(folder, *shards, test=None):
    for number, shard in enumerate(shards):
        pq.write_table(shard, folder / f"train-{number}.parquet")
    pq.write_table(shards[0] if test is None else test, folder / "test-0.parquet")


def shades_of(folder):
    """The one shade of each class, in training and testing."""
    found = {}
    for images in load_data(DataSettings(data="parquet", data_root=str(folder)), (3, 8, 8)):
        for label, name in enumerate(images.class_names):
            chosen = images.images[images.labels == label]
            found.setdefault(name, set()).update(chosen.float().mean((1, 2, 3)).tolist())
    return {name: next(iter(values)) for name, values in found.items() if len(values) == 1}


KINDS = [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]


@pytest.mark.parametrize("kind", KINDS)
def test_integers_of_every_kind_are_labels_beside_each_other(tmp_path, kind):
    write(tmp_path, table([0, 1, 2], names=NAMES), table([0, 1, 2], kind=kind, names=NAMES),
          test=table([0, 1, 2], kind=kind, names=NAMES))  # fmt: skip
    assert shades_of(tmp_path) == SHADES


def test_files_that_number_the_same_classes_otherwise_are_read_by_their_names(tmp_path):
    other = ["emu", "cat", "dog"]
    write(tmp_path, table([0, 1, 2], names=NAMES), table([1, 2, 0], names=other), test=table([1, 2, 0], names=other))
    assert shades_of(tmp_path) == SHADES


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_words_of_every_kind_are_labels_beside_each_other(tmp_path, kind):
    write(tmp_path, table(NAMES), table(NAMES, kind=kind), test=table(NAMES, kind=kind))
    assert shades_of(tmp_path) == SHADES


@pytest.mark.parametrize("structs_first", [True, False])
def test_files_of_bytes_and_files_of_structs_are_read_beside_each_other(tmp_path, structs_first):
    structs = table(NAMES)
    plain = structs.set_column(0, "image", pa.array([png(SHADES[name]) for name in NAMES]))
    write(tmp_path, *((structs, plain) if structs_first else (plain, structs)))
    assert shades_of(tmp_path) == SHADES


def test_words_of_which_each_file_has_only_some_are_numbered_together(tmp_path):
    write(tmp_path, table(["dog", "emu"], animals=("dog", "emu")), table(["cat", "emu"], animals=("cat", "emu")),
          test=table(NAMES))  # fmt: skip
    assert shades_of(tmp_path) == SHADES


def test_missing_labels_are_none_in_every_file(tmp_path):
    write(tmp_path, table([0, 1, 2], names=NAMES), table([None, 1, -1], kind=pa.int32(), names=NAMES))
    assert list_parquet(str(tmp_path))[0].labels.tolist() == [0, 1, 2, -1, 1, -1]
    write(tmp_path, table(NAMES), table([None, "dog", "-1"]))
    assert list_parquet(str(tmp_path))[0].labels.tolist() == [0, 1, 2, -1, 1, -1]


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (table([0, 1, 2], names=["cat", "dog", "cow"]), r"train-1\.parquet: its class 'cow' is not once among"),
        (table([0, 1, 2], names=["cat", "dog", "dog"]), r"train-1\.parquet: its class 'dog' is not once among"),
        (table([0, 1, 7], names=["dog", "cat", "emu"]), r"train-1\.parquet: label 7 is out of range"),
        (table([0.5, 1.5, 2.5]), r"column 'label' is double, not labels"),
    ],
)
def test_files_that_do_not_go_together_are_named(tmp_path, second, says):
    write(tmp_path, table([0, 1, 2], names=NAMES), second)
    with pytest.raises(DataError, match=says):
        list_parquet(str(tmp_path))


def test_numbers_without_names_stand_for_the_same_classes_only_where_all_names_agree(tmp_path):
    write(tmp_path, table([0, 1, 2], names=NAMES), table([0, 1, 2]), test=table([0, 1, 2], names=NAMES))
    assert shades_of(tmp_path) == SHADES
    write(tmp_path, table([0, 1, 2], names=NAMES), table([0, 1, 2]), table([2, 1, 0], names=NAMES[::-1]))
    with pytest.raises(DataError, match=r"train-2\.parquet: numbers the classes otherwise than files whose"):
        list_parquet(str(tmp_path))


def test_numbers_beside_words_are_refused(tmp_path):
    write(tmp_path, table(NAMES), table([0, 1, 2]))
    with pytest.raises(DataError, match=r"train-1\.parquet: its labels are numbers, those of other files words"):
        list_parquet(str(tmp_path))


BOMB = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
from raygen.data.parquet import list_parquet
train, _ = list_parquet(sys.argv[1])
pictures = train.read(train.rows[:5])
print(len(train.labels), len(pictures[4]), flush=True)
os._exit(0)  # threads of the libraries may not end well where address space is short
"""


@pytest.mark.parametrize("part", ["bytes", "label"])
def test_a_small_file_that_repeats_a_large_value_does_not_fill_the_memory(tmp_path, part):
    large, count = os.urandom(1000) * 2000, 8000  # 16 GB
    repeated = pa.DictionaryArray.from_arrays(
        pa.array(np.arange(count) % 2, pa.int32()), pa.array([large, large[1:]], pa.binary())
    )
    if part == "bytes":
        made = pa.table({"image": repeated, "label": pa.array(np.arange(count) % 2)})
    else:
        words = pa.DictionaryArray.from_arrays(
            pa.array(np.arange(count) % 2, pa.int32()), pa.array(["a" * 2_000_000, "b"])
        )
        made = pa.table({"image": pa.array([b"1"] * count), "label": words})
    for name in ("train", "test"):
        pq.write_table(made, tmp_path / f"{name}-0.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "train-0.parquet").stat().st_size < 100_000
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.split()[0] == str(count)


def test_a_file_of_more_rows_than_labels_are_read_of_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("raygen.data.parquet_files.ROW_LIMIT", 2)
    write(tmp_path, table([0, 1, 2], names=NAMES))
    with pytest.raises(DataError, match=r"train-0\.parquet: holds 3 rows, above 2"):
        list_parquet(str(tmp_path))


def tiff(numbers):
    sink = io.BytesIO()
    Image.fromarray(numbers).save(sink, "TIFF")
    return decode(sink.getvalue(), (1, 4, 4), middle(4, 4))


@pytest.mark.parametrize(
    ("number", "kind", "shade"),
    [(0.5, np.float32, 128), (1.0, np.float32, 255), (120.0, np.float32, 120), (255.0, np.float32, 255),
     (200, np.int32, 200), (255, np.int32, 255), (0, np.int32, 0), (1, np.int32, 1), (0.0, np.float32, 0)],
)  # fmt: skip
def test_numbers_of_a_known_range_are_read_right(number, kind, shade):
    assert tiff(np.full((4, 4), number, kind)).tolist() == [[[shade] * 4] * 4]


@pytest.mark.parametrize(
    ("number", "kind"), [(-0.5, np.float32), (4000.0, np.float32), (65535, np.int32), (-7e5, np.int32)]
)
def test_numbers_of_no_known_range_are_no_picture(number, kind):
    found = tiff(np.array([[number, 0.25]] * 2).astype(kind))
    assert isinstance(found, Corrupt)
    assert "neither 0 to 1 nor 0 to 255" in found.reason


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_float_picture_of_no_finite_range_is_no_picture(number):
    assert isinstance(tiff(np.full((4, 4), number, np.float32)), Corrupt)


def test_files_with_other_endings_are_counted_and_one_is_named(tmp_path, caplog):
    for name in (f"{folder}/{number}.png" for folder in ("cat", "dog") for number in range(5)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(7))
    caplog.set_level(logging.WARNING)
    load_data(DataSettings(data="folder", data_root=str(tmp_path)), (3, 8, 8))
    assert caplog.text == ""
    (tmp_path / "cat" / "3.heic").write_bytes(b"x")
    (tmp_path / "dog" / "notes.txt").write_bytes(b"x")
    load_data(DataSettings(data="folder", data_root=str(tmp_path)), (3, 8, 8))
    assert "2 files are no pictures by their kinds or endings, such as" in caplog.text


def test_a_pipe_among_pictures_is_no_picture(tmp_path, caplog):
    for name in (f"{folder}/{number}.png" for folder in ("cat", "dog") for number in range(5)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(7))
    os.mkfifo(tmp_path / "cat" / "9.png")
    images, others = load_data(DataSettings(data="folder", data_root=str(tmp_path)), (3, 8, 8))
    assert len(images) + len(others) == 10
    assert "1 files are no pictures by their kinds or endings, such as cat/9.png" in caplog.text
