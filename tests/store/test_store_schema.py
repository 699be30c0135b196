"""Samples that were written before a column came are read with nulls in it."""

import pyarrow as pa
import pyarrow.parquet as pq
from older_runs import unseal
from test_store_run import UNITS, begin, samples

from raygen.store import SAMPLES, Run
from raygen.store.samples import without_seal

LATER = [
    "r_hat_nested",
    "ess_tail",
    "e_bfmi",
    "log_z",
    "log_z_error",
    "log_z_ess",
    "log_z_gradients",
    "dead",
    "trajectories",
    "stop_reason",
    "ancestor",
    "barrier",
    "reference",
    "views",
    "plain_score",
    "mean",
    "mean_low",
    "mean_high",
    "mean_score",
    "mode_steps",
]


def test_columns_that_came_later_are_null_in_older_samples(tmp_path):
    run = begin(tmp_path)
    run.commit(UNITS[0], samples(UNITS[0]))
    file = tmp_path / UNITS[0].path
    whole = run.samples(UNITS[0])
    pq.write_table(without_seal(pq.read_table(file)).drop(LATER), file)
    unseal(tmp_path)
    older = Run.open(str(tmp_path)).samples(UNITS[0])
    assert older.schema.equals(SAMPLES, check_metadata=True)
    assert older.drop(LATER).equals(whole.drop(LATER))
    assert all(older[name].null_count == older.num_rows > 0 for name in LATER)


def test_a_column_that_was_always_there_is_not_made_up(tmp_path):
    begin(tmp_path)
    unseal(tmp_path)
    file = tmp_path / UNITS[0].path
    file.parent.mkdir(parents=True)
    torn = samples(UNITS[0]).drop(["log_z", "score"])
    pq.write_table(torn, file)
    assert Run.open(str(tmp_path)).samples(UNITS[0]).column_names == torn.column_names


def test_only_columns_that_came_later_may_be_null():
    nullable = {field.name for field in SAMPLES if field.nullable}
    assert nullable == {"class_name", *LATER}
    assert isinstance(SAMPLES, pa.Schema)
