"""Footers of Parquet files: those that pyarrow writes are read, those that lie are one line and cost no memory."""

import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lying_parquet import footer_of, lie, numbers_in, with_footer, write
from PIL import Image

from raygen.data.footer import read_footer
from raygen.data.parquet import list_parquet
from raygen.errors import DataError
from raygen.storage import Location


def png(shade):
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (shade,) * 3).save(sink, "PNG")
    return sink.getvalue()


def file_of(labels=(0, 1) * 6, **options):
    """Twelve pictures in two row groups."""
    sink = io.BytesIO()
    pictures = [{"bytes": png(number), "path": f"{number}.png"} for number in range(len(labels))]
    pq.write_table(pa.table({"image": pictures, "label": list(labels)}), sink, row_group_size=6, **options)
    return sink.getvalue()


HONEST = file_of()
PLAIN = file_of(use_dictionary=False)


def read(folder, data):
    (folder / "a").write_bytes(data)
    with Location.of(str(folder)).open("a") as stream:
        return read_footer(stream, ("image", "label"))


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zstd"}, {"use_dictionary": False}, {"version": "1.0"}, {"data_page_version": "2.0"},
     {"write_statistics": False}, {"write_page_index": True}, {"write_page_checksum": True}, {"store_schema": False}],
    ids=str,
)  # fmt: skip
def test_what_pyarrow_writes_is_read_as_pyarrow_reads_it(tmp_path, options):
    data = file_of(("cat", "dog") * 6, **options)
    theirs = pq.ParquetFile(io.BytesIO(data)).metadata
    groups = read(tmp_path, data)
    assert [group.rows for group in groups] == [theirs.row_group(number).num_rows for number in range(2)] == [6, 6]
    for number, group in enumerate(groups):
        columns = [theirs.row_group(number).column(index) for index in range(3)]
        assert [".".join(chunk.path) for chunk in group.chunks] == [column.path_in_schema for column in columns]
        for chunk, column in zip(group.chunks, columns, strict=True):
            assert (chunk.values, chunk.unpacked) == (column.num_values, column.total_uncompressed_size)
            start = column.dictionary_page_offset or column.data_page_offset
            assert (chunk.start, chunk.packed) == (start, column.total_compressed_size)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "does not end as a Parquet file"),
        (b"PAR1", "does not end as a Parquet file"),
        (HONEST[:-1], "does not end as a Parquet file"),
        (HONEST[:-8] + (2**32 - 1).to_bytes(4, "little") + b"PAR1", "does not end as a Parquet file"),
        (lie(HONEST, (3,), 13), "says 13 rows, and other numbers of its row groups"),
        (lie(HONEST, (4, 0, 3), -6), "says -6 rows"),
        (lie(HONEST, (4, 0, 3), 2**33), r"says 6 values of image.bytes in 8589934592 rows"),
        (lie(HONEST, (4, 1, 1, 2, 3, 5), 0), "says 0 values of label in 6 rows"),
        (lie(HONEST, (4, 1, 1, 0, 3, 6), -1), "image.bytes lies beyond the file"),
        (lie(HONEST, (4, 1, 1, 0, 3, 7), 2**40), "image.bytes lies beyond the file"),
        (lie(PLAIN, (4, 1, 1, 0, 3, 9), 2**62), "image.bytes lies beyond the file"),
        (with_footer(HONEST, b"\x1c" * 1000 + b"\0" * 1001), "too many values"),
        (with_footer(HONEST, b"\x19" * 100_000), "too many values"),
        (with_footer(HONEST, b"\x19\xf3" + b"\xff" * 9 + b"\x01"), "is damaged"),
        (with_footer(HONEST, b"\x19\xf1" + b"\xff" * 4 + b"\x01"), "is damaged"),
        (with_footer(HONEST, b"\x18" + b"\xff" * 4 + b"\x01"), "is cut off"),
        (with_footer(HONEST, b"\x16" + b"\xff" * 20), "more than 64 bits"),
        (with_footer(HONEST, b"\x1d"), "a value of kind 13"),
        (with_footer(HONEST, b"\0"), "is damaged"),
    ],
)
def test_a_footer_that_cannot_be_so_is_refused(tmp_path, data, says):
    with pytest.raises(ValueError, match=says):
        read(tmp_path, data)


def test_a_footer_is_bounded_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("raygen.data.footer._LARGEST", 100)
    with pytest.raises(ValueError, match=r"its footer is of .* bytes, above 100"):
        read(tmp_path, HONEST)
    monkeypatch.undo()
    monkeypatch.setattr("raygen.data.thrift._MOST", 100)
    with pytest.raises(ValueError, match="too many values"):
        read(tmp_path, HONEST)


@settings(max_examples=500, deadline=None)
@given(st.integers(footer_of(HONEST)[1], len(HONEST) - 9), st.integers(0, 255))
def test_a_byte_that_changes_in_a_footer_is_one_kind_of_error_at_most(tmp_path_factory, at, byte):
    try:
        groups = read(tmp_path_factory.getbasetemp(), HONEST[:at] + bytes([byte]) + HONEST[at + 1 :])
    except ValueError:
        return
    assert sum(group.rows for group in groups) < 2**63


# pyarrow ended the process on some of them, so that another one has to read them.
LOAD = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
from raygen.data import DataSettings, load_data
from raygen.errors import InputError
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        train, test = load_data(DataSettings(data="parquet", data_root=str(folder)), (3, 8, 8))
        said = f"read {len(train) + len(test)}"
    except InputError as error:
        said = "refused" + "!" * str(error).count("\\n")
    except BaseException as error:
        said = repr(error)
    # getrusage would tell the peak of the process that started this one, where that is higher.
    [peak] = [line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM:")]
    print(folder.name, said, int(peak) // 1024, flush=True)
"""


@pytest.mark.parametrize("labels", [(0, 1) * 6, ("cat", "dog") * 6], ids=["numbers", "words"])
def test_whatever_number_in_a_footer_lies_the_file_is_read_right_or_refused_in_one_line(tmp_path, labels):
    data = file_of(labels)
    told = list(numbers_in(footer_of(data)[0]))
    assert len(told) > 80
    for number, path in enumerate(told):
        for value in ((-1, 2**33), (0, 2**62), (3, 2**31))[number % 3]:
            folder = tmp_path / f"{'-'.join(map(str, path))}={value}"
            folder.mkdir()
            (folder / "train-0.parquet").write_bytes(lie(data, path, value))
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1:], done.stderr[-500:])
    assert len(lines) == 2 * len(told)
    assert [line for line in lines if not line[1].startswith(("read 12 ", "refused "))] == []
    assert max(int(line[1].split()[-1]) for line in lines) < 1500  # MB of the process, half of them libraries


def test_the_writer_of_these_tests_writes_what_it_read():
    assert footer_of(with_footer(HONEST, footer_of(HONEST)[0])) == footer_of(HONEST)
    assert len(write(footer_of(HONEST)[0])) > 100


@pytest.mark.parametrize("names", ['"abc"', "5", '{"a": 1}', "[1, 2]", "[" * 100_000])
def test_names_of_classes_that_are_no_names_are_refused_or_passed_over(tmp_path, names):
    sink = io.BytesIO()
    text = '{"info": {"features": {"label": {"_type": "ClassLabel", "names": ' + names + "}}}}"
    table = pa.table({"image": [{"bytes": png(3), "path": ""}] * 12, "label": [0, 1] * 6})
    pq.write_table(table.replace_schema_metadata({b"huggingface": text.encode()}), sink)
    (tmp_path / "train-0.parquet").write_bytes(sink.getvalue())
    if names.startswith("[["):
        assert list_parquet(str(tmp_path))[0].class_names == ("0", "1")
        return
    with pytest.raises(DataError, match="the names of the classes in 'label' are no list of names"):
        list_parquet(str(tmp_path))
