"""A file of samples is that of its unit and its run, or it is refused by whoever reads it."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from older_runs import unseal
from test_store_run import REQUEST, UNITS, begin, samples
from test_store_verify import UNITS as CHECKED
from test_store_verify import rows_of, table, whole_run

from raygen.errors import StoreError
from raygen.store import Run, verify_run
from raygen.store.samples import seal, without_seal

FIRST, SECOND, THIRD = UNITS


def sampled(folder, **request):
    run = begin(folder, request={**REQUEST, **request})
    for unit in UNITS:
        run.commit(unit, samples(unit))
    return run


def refused(run: Run, unit, what: str) -> None:
    with pytest.raises(StoreError, match=what) as caught:
        run.samples(unit)
    assert str(caught.value).startswith(f"{run.location.title}: {unit.path} is torn: it ")
    with pytest.raises(StoreError, match=what):
        list(run.layers())


@pytest.mark.parametrize("other", [SECOND, THIRD], ids=["of the layer", "of another layer"])
def test_the_samples_of_another_unit_are_refused(tmp_path, other):
    run = sampled(tmp_path)
    shutil.copy(tmp_path / other.path, tmp_path / FIRST.path)
    refused(run, FIRST, "another unit or another run")
    assert run.samples(other).num_rows == len(other.nodes) * other.chains


def test_the_samples_of_the_same_unit_of_another_run_are_refused(tmp_path):
    run, other = sampled(tmp_path / "a", seed=0), sampled(tmp_path / "b", seed=1)
    shutil.copy(tmp_path / "b" / FIRST.path, tmp_path / "a" / FIRST.path)
    refused(run, FIRST, "another unit or another run")
    assert other.samples(FIRST).num_rows == 4


def test_the_same_run_in_another_folder_has_the_same_files(tmp_path):
    sampled(tmp_path / "a")
    sampled(tmp_path / "b")
    assert (tmp_path / "a" / FIRST.path).read_bytes() == (tmp_path / "b" / FIRST.path).read_bytes()


def test_samples_under_a_request_that_was_changed_are_refused_even_without_its_seals(tmp_path):
    sampled(tmp_path, seed=0)
    unseal(tmp_path)
    document = json.loads((tmp_path / "run.json").read_text())
    document["request"]["seed"] = 1
    (tmp_path / "run.json").write_text(json.dumps(document))
    refused(Run.open(str(tmp_path)), FIRST, "another unit or another run")


@pytest.mark.parametrize("sealed", [False, True], ids=["without a seal", "sealed, without a mark"])
def test_samples_whose_seal_was_cut_off_are_refused(tmp_path, sealed):
    run = sampled(tmp_path)
    cut = without_seal(pq.read_table(tmp_path / FIRST.path))
    pq.write_table(seal(cut) if sealed else cut, tmp_path / FIRST.path)
    refused(run, FIRST, "bears no seal")


def test_a_run_of_before_there_were_marks_is_read_and_goes_on(tmp_path):
    run = sampled(tmp_path)
    whole = run.samples(FIRST)
    for unit in UNITS:
        file = tmp_path / unit.path
        pq.write_table(seal(without_seal(pq.read_table(file))), file)
    unseal(tmp_path)
    again = begin(tmp_path)
    assert again.samples(FIRST).equals(whole)
    again.commit(SECOND, samples(SECOND))
    assert sum(layer.num_rows for _, layer in again.layers()) == 8
    shutil.copy(tmp_path / THIRD.path, tmp_path / FIRST.path)
    refused(again, FIRST, "another unit or another run")


def test_verify_finds_samples_of_another_run(tmp_path):
    run = whole_run(tmp_path)
    assert verify_run(run).is_whole
    other = Run.begin(str(tmp_path / "other"), {"settings": {"draws": 3}, "input_shape": [1, 8, 9]}, CHECKED, about={})
    other.commit(CHECKED[0], table(rows_of(CHECKED[0])))
    shutil.copy(tmp_path / "other" / CHECKED[0].path, tmp_path / CHECKED[0].path)
    shutil.rmtree(tmp_path / "other")
    assert verify_run(run).torn == {CHECKED[0].path: "holds samples of another unit or another run"}
