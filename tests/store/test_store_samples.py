"""A seal holds through Parquet, and breaks with any value, name or order that is not what was sealed."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_store_verify import UNITS, rows_of, table

from raygen.store.samples import is_unbroken, old_digest, read_samples, seal, without_seal, write_samples

PLAIN = pa.table(
    {
        "node": ["a:0", "a:1"],
        "score": pa.array([0.1, float("nan")], pa.float32()),
        "label": pa.array([None, "None"], pa.string()),
        "image": pa.array([{"bytes": b"\x00\xff", "path": None}, {"bytes": b"", "path": None}]),
    },
    metadata={"raygen.schema": "3"},
)


def test_a_seal_holds_through_parquet_and_chunks_and_keeps_other_metadata():
    sink = io.BytesIO()
    pq.write_table(seal(PLAIN), sink, row_group_size=1)
    sink.seek(0)
    again = pq.read_table(sink)
    assert is_unbroken(again) and is_unbroken(again.combine_chunks())
    assert again.schema.metadata[b"raygen.schema"] == b"3"


def test_rows_for_use_bear_no_seal():
    used = without_seal(seal(PLAIN))
    assert used.schema.equals(PLAIN.schema, check_metadata=True)
    assert without_seal(seal(PLAIN.replace_schema_metadata(None))).schema.metadata is None
    assert is_unbroken(used.slice(0, 1))


def test_what_was_never_sealed_passes():
    assert is_unbroken(PLAIN)
    assert is_unbroken(PLAIN.replace_schema_metadata(None))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("node", ["a:0", "a:2"]),
        ("node", ["a:1", "a:0"]),
        ("score", pa.array([0.1, None], pa.float32())),
        ("score", pa.array([-0.1, float("nan")], pa.float32())),
        ("label", ["None", "None"]),
        ("label", pa.array([None, None], pa.string())),
        ("image", [{"bytes": b"\x00\xfe", "path": None}, {"bytes": b"", "path": None}]),
    ],
)
def test_a_seal_breaks_with_any_value(column, values):
    sealed = seal(PLAIN)
    index = sealed.column_names.index(column)
    other = sealed.set_column(index, column, pa.chunked_array([values]) if isinstance(values, pa.Array) else [values])
    assert other.schema.metadata == sealed.schema.metadata
    assert not is_unbroken(other)


def test_a_seal_breaks_with_a_name_and_with_rows_that_are_missing():
    sealed = seal(PLAIN)
    renamed = sealed.rename_columns(["node", "score", "other", "image"])
    assert not is_unbroken(renamed.replace_schema_metadata(sealed.schema.metadata))
    assert not is_unbroken(sealed.slice(0, 1))


def test_samples_under_the_seal_that_older_files_bear_are_read_and_a_changed_value_breaks_it():
    old = PLAIN.replace_schema_metadata({"raygen.digest": old_digest(PLAIN)})
    assert is_unbroken(old)
    scores = pa.array([0.1, 0.2], pa.float32())
    assert not is_unbroken(old.set_column(1, "score", scores))
    sink = io.BytesIO()
    pq.write_table(old.set_column(1, "score", scores), sink)
    with pytest.raises(ValueError, match="holds other values than were written"):
        read_samples(sink.getvalue())


def test_a_seal_does_not_count_how_the_values_lie_in_memory():
    offset = pa.concat_tables([PLAIN, PLAIN, PLAIN]).combine_chunks().slice(2, 2)
    assert offset.equals(PLAIN.combine_chunks()) or offset.num_rows == 2
    assert seal(offset).schema.metadata == seal(PLAIN).schema.metadata
    masked = pa.array(["x", "None"]).take(pa.array([None, 1]))
    assert seal(PLAIN.set_column(2, "label", masked)).schema.metadata == seal(PLAIN).schema.metadata


WHOLE = write_samples(table(rows_of(UNITS[0])))
ROWS = read_samples(WHOLE)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_bit_that_changes_in_a_file_of_samples_changes_no_value_without_a_word(at, bit):
    changed = bytearray(WHOLE)
    changed[int(at * len(WHOLE))] ^= 1 << bit
    try:
        found = read_samples(bytes(changed))
    except ValueError as error:
        assert str(error).startswith(("cannot be read (", "holds other values than were written"))
        assert "\n" not in str(error)
    else:
        assert found.equals(ROWS)
