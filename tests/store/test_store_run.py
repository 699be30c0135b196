"""A run on storage: begun once, taken up again, and never mixed with another."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from committed import committed

from raygen.errors import StoreError
from raygen.storage import Location
from raygen.store import SAMPLES, Run, Unit, claim

UNITS = (
    Unit("conv1-00000", "conv1", ("conv1:0", "conv1:1"), 2),
    Unit("conv1-00001", "conv1", ("conv1:2",), 2),
    Unit("ip2-00000", "ip2", ("ip2:3",), 2),
)
REQUEST = {"network": "lenet", "nodes": "conv1 ip2:3", "settings": {"sigma": 10.0, "tilt": None}, "list": (1, 2)}


def begin(folder, request=REQUEST, about=None):
    return Run.begin(str(folder), request, UNITS, about=about or {"raygen": "0.1.0"})


def samples(unit: Unit) -> pa.Table:
    rng = np.random.default_rng(list(unit.name.encode()))
    rows = [
        {field.name: _value(field, rng) for field in SAMPLES}
        | {"layer": unit.layer, "channel": int(node.rpartition(":")[2]), "node": node, "chain": chain}
        for node in unit.nodes
        for chain in range(unit.chains)
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def _value(field: pa.Field, rng: np.random.Generator):
    if pa.types.is_struct(field.type):
        return {"bytes": rng.bytes(300), "path": None}
    if pa.types.is_boolean(field.type):
        return bool(rng.integers(2))
    if pa.types.is_integer(field.type):
        return int(rng.integers(1000))
    return float(rng.normal()) if pa.types.is_floating(field.type) else "name"


def tear(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_a_run_of_an_older_raygen_is_continued_where_what_it_did_not_know_is_off(tmp_path):
    begin(tmp_path)
    off = {**REQUEST["settings"], "bounded": False, "cutoff": None, "views": 0}
    assert begin(tmp_path, {**REQUEST, "settings": off}).request["request"]["settings"] == REQUEST["settings"]
    with pytest.raises(StoreError, match=r"there settings\.bounded is null, now true"):
        begin(tmp_path, {**REQUEST, "settings": off | {"bounded": True}})


def test_a_run_begun_again_with_the_same_request_is_continued(tmp_path):
    begin(tmp_path).commit(UNITS[0], samples(UNITS[0]))
    before = (tmp_path / "run.json").read_bytes()
    again = begin(tmp_path, about={"raygen": "0.2.0"})
    assert committed(again) == {"conv1-00000"}
    assert (tmp_path / "run.json").read_bytes() == before
    assert again.request == {
        "schema": 3,
        "request": {**REQUEST, "list": [1, 2]},
        "about": {"raygen": "0.1.0"},
    }


def test_a_run_whose_plan_was_not_yet_written_is_continued(tmp_path):
    begin(tmp_path)
    (tmp_path / "plan.parquet").unlink()
    assert begin(tmp_path).plan[:] == list(UNITS)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"settings": {"sigma": 12.0, "tilt": None}}, r"there settings\.sigma is 10\.0, now 12\.0"),
        ({"settings": {"sigma": 10.0, "tilt": 3.0}}, r"there settings\.tilt is null, now 3\.0"),
        ({"network": "alexnet"}, 'there network is "lenet", now "alexnet"'),
        ({"seed": 3}, r"there seed is null, now 3"),
    ],
)
def test_another_request_is_refused_with_the_difference_and_nothing_changes(tmp_path, changed, said):
    begin(tmp_path).commit(UNITS[0], samples(UNITS[0]))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StoreError, match=said) as caught:
        begin(tmp_path, REQUEST | changed)
    assert str(tmp_path) in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        begin(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_training_of_its_network_may_lie_in_a_new_run(tmp_path):
    (tmp_path / "pretrain").mkdir()
    assert begin(tmp_path).plan[:] == list(UNITS)


def test_a_begin_that_was_killed_while_it_wrote_can_be_repeated(tmp_path):
    (tmp_path / "run.json.0a1b2c3d.tmp").write_bytes(b'{"schema"')
    assert begin(tmp_path).plan[:] == list(UNITS)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(StoreError, match="run"):
        begin(tmp_path / "run")
    with pytest.raises(StoreError):
        Run.open(str(tmp_path / "run"))


def test_a_folder_without_a_run_cannot_be_opened(tmp_path):
    with pytest.raises(StoreError, match=r"run\.json"):
        Run.open(str(tmp_path / "absent"))


@pytest.mark.parametrize("content", [b"", b'{"schema": 3, "requ', b"[1]", b"\xff\xfe", b'{"schema": 3}'])
def test_a_damaged_request_is_named(tmp_path, content):
    begin(tmp_path)
    (tmp_path / "run.json").write_bytes(content)
    for attempt in (lambda: Run.open(str(tmp_path)), lambda: begin(tmp_path)):
        with pytest.raises(StoreError, match=r"run\.json is damaged"):
            attempt()


def test_a_request_that_is_too_large_is_named_before_it_is_read(tmp_path):
    begin(tmp_path)
    os.truncate(tmp_path / "run.json", 2**40)
    for ask in (lambda: Run.open(str(tmp_path)), lambda: begin(tmp_path)):
        with pytest.raises(StoreError, match=r"run\.json is larger than 16,777,216 bytes"):
            ask()


def test_another_version_of_the_schema_is_named(tmp_path):
    begin(tmp_path)
    document = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(document | {"schema": 4}))
    with pytest.raises(
        StoreError, match="schema version 4, and this raygen reads 2 to 3; use the raygen that wrote it"
    ):
        Run.open(str(tmp_path))


def test_a_torn_plan_is_named(tmp_path):
    run = begin(tmp_path)
    tear(tmp_path / "plan.parquet")
    with pytest.raises(StoreError, match=r"plan\.parquet"):
        _ = run.plan


@pytest.mark.parametrize("how", ["half", "empty", "other"])
def test_a_torn_unit_is_named_and_the_others_are_still_read(tmp_path, how):
    run = begin(tmp_path)
    for unit in UNITS:
        run.commit(unit, samples(unit))
    path = tmp_path / UNITS[0].path
    match how:
        case "half":
            tear(path)
        case "empty":
            path.write_bytes(b"")
        case "other":
            path.write_bytes(b"this is no parquet file, but it is long enough to be one" * 10)
    with pytest.raises(StoreError, match=r"conv1-00000\.parquet is torn: it cannot be read .*; remove that file"):
        run.samples(UNITS[0])
    assert run.samples(UNITS[1]).equals(samples(UNITS[1]))


def test_samples_are_read_as_committed_with_the_schema_in_the_file(tmp_path):
    run = begin(tmp_path)
    run.commit(UNITS[0], samples(UNITS[0]))
    assert run.samples(UNITS[0]).equals(samples(UNITS[0]))
    schema = pq.read_schema(tmp_path / "samples/conv1/conv1-00000.parquet")
    assert schema.equals(SAMPLES)
    assert schema.metadata.items() >= SAMPLES.metadata.items()


def test_a_second_commit_replaces_the_first(tmp_path):
    run = begin(tmp_path)
    run.commit(UNITS[0], samples(UNITS[0]))
    run.commit(UNITS[0], samples(UNITS[0]))
    assert run.samples(UNITS[0]).num_rows == 4
    assert sorted(path.name for path in (tmp_path / "samples/conv1").iterdir()) == ["conv1-00000.parquet"]


def test_layers_come_in_the_plans_order_with_what_is_done(tmp_path):
    run = begin(tmp_path)
    for unit in (UNITS[2], UNITS[1]):
        run.commit(unit, samples(unit))
    found = list(run.layers())
    assert [layer for layer, _ in found] == ["conv1", "ip2"]
    assert found[0][1].equals(samples(UNITS[1]))


def test_an_unfinished_write_is_not_done(tmp_path):
    run = begin(tmp_path)
    (tmp_path / "samples/conv1").mkdir(parents=True)
    (tmp_path / "samples/conv1/conv1-00000.parquet.12345678.tmp").write_bytes(b"half")
    assert committed(run) == set()


@pytest.mark.parametrize("layer", ["left/right", "weiß", "a b", "x@1,2"])
def test_a_unit_is_done_whatever_its_layer_is_called(tmp_path, layer):
    unit = Unit(f"{layer}-00000", layer, (f"{layer}:0",), 1)
    run = Run.begin(str(tmp_path), {}, [unit], about={})
    run.commit(unit, samples(unit))
    assert committed(run) == {unit.name}
    assert [name for name, _ in run.layers()] == [layer]


def test_a_run_of_other_settings_is_refused_without_the_secrets_of_an_address(tmp_path):
    def address(key):
        return f"s3://me:{key}@bucket/pictures?secret_key={key}"

    folder = Location.of(str(tmp_path / "run"))
    claim(folder, "run.json", {"data_root": address("OLD")}, about={})
    with pytest.raises(StoreError, match=r"there data_root is \"s3://bucket/pictures\?\.\.\.\", now") as caught:
        claim(folder, "run.json", {"data_root": address("NEW")}, about={})
    assert "OLD" not in str(caught.value) and "NEW" not in str(caught.value)


def test_what_is_noted_about_a_run_holds_no_secret(tmp_path):
    about = {"weights": "s3://KEY:SECRET@bucket/w.pt", "reference_file": "s3://b/r?secret_key=SECRET", "raygen": "1.0"}
    claim(Location.of(str(tmp_path / "run")), "run.json", {"a": 1}, about=about)
    text = (tmp_path / "run" / "run.json").read_text()
    assert "SECRET" not in text and "s3://bucket/w.pt" in text
