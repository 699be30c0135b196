"""Pages of Parquet files: what honest writers write is read, and what unpacks to more than the footer says is not."""

import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lying_parquet import footer_of, lie

from raygen.data.footer import read_footer
from raygen.data.pages import PageError, check_pages
from raygen.data.parquet import list_parquet
from raygen.errors import DataError
from raygen.storage import Location

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
UNPACKED = 6  # field of a column's metadata


def file_of(pictures, labels, **options):
    sink = io.BytesIO()
    structs = pa.array([{"bytes": picture, "path": "a"} for picture in pictures], IMAGE)
    pq.write_table(pa.table({"image": structs, "label": labels}), sink, store_schema=False, **options)
    return sink.getvalue()


def listed(folder, data):
    for name in ("train", "test"):
        (folder / f"{name}-0.parquet").write_bytes(data)
    return list_parquet(str(folder))[0]


OPTIONS = [
    {"compression": "none"},
    {"compression": "snappy"},
    {"compression": "zstd"},
    {"compression": "gzip"},
    {"compression": "brotli"},
    {"compression": "lz4"},
    {"use_dictionary": False},
    {"data_page_version": "2.0", "compression": "zstd"},
    {"data_page_size": 2000},
    {"write_page_checksum": True},
    {"write_page_index": True},
    {"use_dictionary": False, "column_encoding": {"image.path": "DELTA_BYTE_ARRAY"}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_pyarrow_writes_is_read_whatever_its_pages(tmp_path, options):
    pictures = [os.urandom(900) + bytes(100) for _ in range(50)] * 2
    data = file_of(pictures, ["cat", "dog"] * 50, row_group_size=40, **options)
    listing = listed(tmp_path, data)
    assert [bytes(each) for each in listing.read(np.arange(len(listing.rows)))] == pictures
    with Location.of(str(tmp_path)).open("train-0.parquet") as stream:
        for group in read_footer(stream, ("image", "label")):
            for chunk in group.chunks:
                check_pages(data[chunk.start : chunk.start + chunk.packed], chunk)


@pytest.mark.parametrize("dictionary", [True, False])
def test_pictures_that_unpack_to_more_than_the_footer_says_are_refused(tmp_path, dictionary):
    pictures = [bytes([number]) + bytes(1_000_000) for number in range(20)]
    data = file_of(pictures, [0, 1] * 10, compression="zstd", use_dictionary=dictionary)
    assert len(data) < 50_000
    listing = listed(tmp_path, data)
    assert [bytes(each) for each in listing.read(np.arange(len(listing.rows)))] == pictures
    listing = listed(tmp_path, lie(data, (4, 0, 1, 0, 3, UNPACKED), 1000))
    with pytest.raises(DataError, match=r"the pages of image unpack to 20,\d+,\d+ bytes, its footer says 1,000\)"):
        listing.read(np.arange(1))


def test_labels_that_unpack_to_more_than_the_footer_says_are_refused(tmp_path):
    words = ["a" * 500_000 + str(number) for number in range(20)]
    data = file_of([b"x"] * 20, words, compression="zstd", use_dictionary=False, write_statistics=False)
    assert len(listed(tmp_path, data).class_names) == 20
    with pytest.raises(DataError, match=r"train-0\.parquet: .*the pages of label unpack to 10,\d+,\d+ bytes, its foot"):
        listed(tmp_path, lie(data, (4, 0, 1, 2, 3, UNPACKED), 1000))


def test_labels_of_many_bytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("raygen.data.parquet_files.LABEL_LIMIT", 1000)
    with pytest.raises(DataError, match=r"labels of [\d,]+ bytes, above 1,000; give"):
        listed(tmp_path, file_of([b"x"] * 20, ["a" * 100 + str(number) for number in range(20)]))


def test_names_of_pictures_are_not_read_since_nothing_bounds_them(tmp_path):
    # Each of them is the one before and a letter more: the file holds the letters.
    structs = pa.array([{"bytes": b"x", "path": "a" * number} for number in range(20_000)], IMAGE)
    encoding = {"image.path": "DELTA_BYTE_ARRAY"}
    pq.write_table(
        pa.table({"image": structs, "label": [0, 1] * 10_000}), tmp_path / "train-0.parquet",
        use_dictionary=False, column_encoding=encoding, write_statistics=False,
    )  # fmt: skip
    assert (tmp_path / "train-0.parquet").stat().st_size < 1_000_000
    listing = list_parquet(str(tmp_path))[0]
    before = pa.default_memory_pool().max_memory()
    del structs
    assert len(listing.read(np.arange(len(listing.rows)))) == len(listing.rows)
    assert pa.default_memory_pool().max_memory() == before


def test_pages_that_are_damaged_are_refused():
    data = file_of([b"x"] * 20, [0, 1] * 10)
    column = footer_of(data)[0][4][1][1][0][1][1][1][0][3][1]
    start, packed = column.get(11, column[9])[1], column[7][1]
    pages = data[start : start + packed]
    chunk = read_chunk(data)
    check_pages(pages, chunk)
    for damaged in (b"\xff" * packed, b"\0" * packed, b"\x16" * packed, pages[:1] + b"\xff" * (packed - 1)):
        with pytest.raises(PageError, match=r"the pages of image\.bytes are damaged"):
            check_pages(damaged, chunk)


def read_chunk(data):
    """The chunk of the pictures' bytes."""
    with io.BytesIO(data) as stream:
        return read_footer(stream, ("image",))[0].chunks[0]
