"""Runs that an older raygen wrote are read in today's words, and not mixed with new samples."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from older_runs import unseal
from test_store_verify import REQUEST, UNITS, contents, rows_of, table

from raygen.errors import StoreError
from raygen.store import SAMPLES, Run, mend_run, verify_run
from raygen.store.samples import seal

NAMES_OF_VERSION_2 = {
    "potential": "energy",
    "top_channel": "winner",
    "dead": "quiet",
    "ess_bulk": "ess",
    "stop_reason": "stopped",
}
VERSION_2 = {b"raygen.schema": b"2"}


def samples_of_version_2(unit) -> pa.Table:
    rows = table(rows_of(unit, dead={"a:2"}))
    old = rows.rename_columns([NAMES_OF_VERSION_2.get(name, name) for name in rows.column_names])
    return old.replace_schema_metadata(VERSION_2)


def write_version_2(folder, units=UNITS) -> Run:
    """Write what the raygen of schema version 2 wrote: its names, its version in all files, its seal."""
    run = Run.begin(str(folder), REQUEST, UNITS, about={})
    unseal(folder)
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(document | {"schema": 2}, indent=2))
    plan = pq.read_table(folder / "plan.parquet")
    pq.write_table(plan.replace_schema_metadata(VERSION_2), folder / "plan.parquet")
    for unit in units:
        sink = io.BytesIO()
        pq.write_table(seal(samples_of_version_2(unit)), sink, compression="zstd", write_page_checksum=True)
        run.location.write(unit.path, sink.getvalue())
    return Run.open(str(folder))


def test_samples_of_version_2_are_read_in_todays_columns(tmp_path):
    run = write_version_2(tmp_path)
    for unit in UNITS:
        found = run.samples(unit)
        assert found.schema.equals(SAMPLES, check_metadata=True)
        assert found.equals(table(rows_of(unit, dead={"a:2"})))
    assert [layer for layer, _ in run.layers()] == ["a", "b"]


def test_columns_newer_than_samples_of_version_2_are_null(tmp_path):
    run = write_version_2(tmp_path, [])
    before = samples_of_version_2(UNITS[0]).drop_columns(["stopped", "quiet", "log_z"])
    (tmp_path / "samples/a").mkdir(parents=True)
    pq.write_table(before, tmp_path / UNITS[0].path)
    found = run.samples(UNITS[0])
    assert found.schema.equals(SAMPLES, check_metadata=True)
    assert all(found[name].null_count == found.num_rows for name in ("stop_reason", "dead", "log_z"))


def test_a_whole_run_of_version_2_is_found_whole_and_a_torn_unit_is_found(tmp_path):
    run = write_version_2(tmp_path)
    before = contents(tmp_path)
    assert verify_run(run).is_whole
    mend_run(run.location, verify_run(run))
    assert contents(tmp_path) == before
    changed = samples_of_version_2(UNITS[0]).to_pylist()
    changed[3]["energy"] += 1
    schema = seal(samples_of_version_2(UNITS[0])).schema
    pq.write_table(pa.Table.from_pylist(changed, schema=schema), tmp_path / UNITS[0].path)
    assert verify_run(run).torn == {UNITS[0].path: "holds other values than were written"}


def test_a_finished_run_of_version_2_may_be_asked_for_again_and_is_not_changed(tmp_path):
    write_version_2(tmp_path)
    before = contents(tmp_path)
    again = Run.begin(str(tmp_path), REQUEST, UNITS, about={"raygen": "9"})
    assert [unit.name for unit in again.plan] == [unit.name for unit in UNITS]
    assert contents(tmp_path) == before


@pytest.mark.parametrize("lost", ["a unit", "the plan"])
def test_an_unfinished_run_of_version_2_is_refused_in_one_line_that_says_what_to_do(tmp_path, lost):
    write_version_2(tmp_path, UNITS[:-1] if lost == "a unit" else UNITS)
    if lost == "the plan":
        (tmp_path / "plan.parquet").unlink()
    before = contents(tmp_path)
    with pytest.raises(StoreError) as caught:
        Run.begin(str(tmp_path), REQUEST, UNITS, about={})
    assert str(caught.value) == (
        f"{tmp_path}: this unfinished run is of schema version 2; this raygen writes version 3; "
        "give a new folder, or finish it with the raygen that began it; gallery, status, verify read it"
    )
    assert contents(tmp_path) == before


def test_another_request_in_a_run_of_version_2_is_refused_with_the_difference(tmp_path):
    write_version_2(tmp_path)
    with pytest.raises(StoreError, match=r"settings\.draws is 3, now 4"):
        Run.begin(str(tmp_path), REQUEST | {"settings": {"draws": 4}}, UNITS, about={})
