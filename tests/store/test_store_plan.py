"""The plan survives its file, whatever the nodes are called."""

import json
import pickle
import re
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from older_runs import unseal

from raygen.errors import NodeError, StoreError
from raygen.notation import Node, sum_node
from raygen.storage import Location
from raygen.store import Run, Unit
from raygen.store.schema import PLAN
from raygen.store.unit import file_name

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30).filter(
    lambda name: ".." not in re.split(r"[/\\]", name)
)
numbers = st.integers(0, 2**31 - 1)
units = st.builds(
    Unit,
    name=names,
    layer=names,
    nodes=st.lists(texts, max_size=20).map(tuple),
    chains=numbers,
)


@settings(deadline=None)  # the disk sets the pace
@given(st.lists(units, max_size=8))
def test_the_plan_is_read_as_it_was_begun(tmp_path_factory, plan):
    folder = str(tmp_path_factory.mktemp("run"))
    Run.begin(folder, {}, plan, about={})
    assert list(Run.open(folder).plan) == plan


def test_the_file_has_the_promised_columns_and_the_version(tmp_path):
    Run.begin(str(tmp_path), {}, [Unit("u", "conv1", ("conv1:0", "conv1:1"), 4)], about={})
    schema = pq.read_schema(Location.of(str(tmp_path)).root + "/plan.parquet")
    assert schema.equals(PLAN)
    assert schema.metadata[b"raygen.schema"] == b"3"


def plan_of(count):
    return [Unit(f"conv1-{number:05d}", "conv1", (f"conv1:{number}",), 4) for number in range(count)]


def test_a_units_index_finds_it_whatever_row_group_it_is_in(tmp_path):
    expected = plan_of(12_345)
    plan = Run.begin(str(tmp_path), {}, expected, about={}).plan
    assert len(plan) == len(expected)
    # There and back again: more row groups than are kept.
    for index in (0, 999, 1000, 12_344, 5_000, 0, 11_000, -1, -12_345):
        assert plan[index] == expected[index]
    assert list(plan[998:1003]) == expected[998:1003] and list(plan[-2:]) == expected[-2:]
    for index in (12_345, -12_346):
        with pytest.raises(IndexError):
            plan[index]


def test_a_plan_written_in_one_piece_is_read_as_well(tmp_path):
    run = Run.begin(str(tmp_path), {}, plan_of(2_500), about={})
    unseal(tmp_path)
    assert pq.ParquetFile(tmp_path / "plan.parquet").num_row_groups == 1
    assert run.plan[2_400] == plan_of(2_500)[2_400]


def test_a_plan_torn_in_the_middle_is_named_where_it_is_read(tmp_path):
    run = Run.begin(str(tmp_path), {}, plan_of(5_000), about={})
    data = bytearray((tmp_path / "plan.parquet").read_bytes())
    middle = len(data) // 2
    data[middle - 2000 : middle + 2000] = bytes(4000)
    (tmp_path / "plan.parquet").write_bytes(data)
    plan = run.plan
    with pytest.raises(StoreError, match=r"plan\.parquet is torn.*remove that file"):
        list(plan)


def test_the_units_done_are_found_by_index(tmp_path):
    run = Run.begin(str(tmp_path), {}, plan_of(3), about={})
    assert run.done(run.plan) == bytearray([0, 0, 0])
    run.location.write(run.plan[1].path, b"")
    assert run.done(run.plan) == bytearray([0, 1, 0])


def test_a_units_nodes_are_read_once_and_are_no_part_of_what_makes_units_equal():
    unit = Unit("u", "a: b", ('"a: b":7@3,4', '"a: b":[3-5]@3,4'), 4)
    nodes = unit.parsed
    assert nodes == (Node("a: b", 7, (3, 4)), sum_node("a: b", [(3, 1.0), (5, -1.0)], position=(3, 4)))
    assert unit.parsed is nodes
    other = pickle.loads(pickle.dumps(unit))
    assert other == unit == Unit(unit.name, unit.layer, unit.nodes, unit.chains) and other.parsed == nodes
    with pytest.raises(NodeError, match="node a b:7: is no node as raygen writes it"):
        _ = Unit("u", "a b", ("a b:7",), 4).parsed


def outcome(folder):
    """Return the request and the units that are read, None where one line says that they cannot be."""
    try:
        run = Run.open(str(folder))
        return run.request["request"], list(run.plan), run.plan[len(run.plan) - 1]
    except StoreError as error:
        assert "\n" not in str(error)
        return None


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["run.json", "plan.parquet"]), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_bit_that_changes_in_the_request_or_the_plan_changes_no_value_without_a_word(tmp_path, name, at, bit):
    folder = tmp_path / "run"
    if not folder.exists():
        Run.begin(
            str(folder), {"settings": {"tilt": 0.1, "draws": 12}, "nodes": "conv1:0-4"}, plan_of(5), about={"a": "b"}
        )
    whole = (folder / name).read_bytes()
    expected = outcome(folder)
    changed = bytearray(whole)
    changed[int(at * len(whole))] ^= 1 << bit
    try:
        (folder / name).write_bytes(changed)
        assert outcome(folder) in (None, expected)
    finally:
        (folder / name).write_bytes(whole)


def test_the_plan_of_another_run_is_refused_where_it_is_read(tmp_path):
    Run.begin(str(tmp_path / "one"), {"seed": 1}, plan_of(3), about={})
    Run.begin(str(tmp_path / "two"), {"seed": 2}, plan_of(4), about={})
    (tmp_path / "one/plan.parquet").write_bytes((tmp_path / "two/plan.parquet").read_bytes())
    with pytest.raises(StoreError, match=r"plan\.parquet is torn \(it is not the plan that run\.json names\)"):
        _ = Run.open(str(tmp_path / "one")).plan


def test_a_group_that_was_changed_is_found_when_it_is_decoded_and_the_others_are_read(tmp_path):
    run = Run.begin(str(tmp_path), {}, plan_of(3_000), about={})
    file = pq.ParquetFile(tmp_path / "plan.parquet")
    groups = [file.read_row_group(group) for group in range(3)]
    changed = groups[1].to_pylist()
    changed[7]["nodes"] = ["conv1:1"]
    groups[1] = pa.Table.from_pylist(changed, schema=PLAN)
    with pq.ParquetWriter(tmp_path / "plan.parquet", PLAN) as writer:
        for group in groups:
            writer.write_table(group)
        writer.add_key_value_metadata({b"raygen.groups": file.metadata.metadata[b"raygen.groups"]})
    plan = run.plan
    assert plan[5] == plan_of(6)[5] and plan[2_500].name == "conv1-02500"
    with pytest.raises(StoreError, match="holds other units than were planned"):
        plan[1_500]


def test_a_lost_plan_is_made_again_and_no_other_is_taken_for_it(tmp_path):
    Run.begin(str(tmp_path), {}, plan_of(3), about={})
    (tmp_path / "plan.parquet").unlink()
    with pytest.raises(StoreError, match="is lost, and this raygen plans other units"):
        Run.begin(str(tmp_path), {}, plan_of(4), about={})
    assert not (tmp_path / "plan.parquet").exists()
    assert list(Run.begin(str(tmp_path), {}, plan_of(3), about={}).plan) == plan_of(3)


def test_a_plan_of_an_older_run_is_read_without_a_seal(tmp_path):
    run = Run.begin(str(tmp_path), {}, plan_of(3), about={})
    unseal(tmp_path)
    assert list(run.plan) == plan_of(3)
    assert "seals" not in json.loads((tmp_path / "run.json").read_text())


BAD = ["../../../../escaped", "a/../../b", "..", "a\\..\\b", "a\0b", "a\nb", "a\x1b[31m", "a\x9bb", "x" * 1001]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("field", ["unit", "layer"])
def test_a_name_that_could_mislead_is_refused_in_one_line_where_it_is_read_and_where_it_is_planned(
    tmp_path, name, field
):
    row = {"unit": "a-00000", "layer": "a", "nodes": ["a:0"], "chains": 1} | {field: name}
    Run.begin(str(tmp_path / "run"), {}, plan_of(1), about={})
    unseal(tmp_path / "run")
    pq.write_table(pa.Table.from_pylist([row], schema=PLAN), tmp_path / "run/plan.parquet")
    with pytest.raises(StoreError, match=f"the name of {field} ") as caught:
        list(Run.open(str(tmp_path / "run")).plan)
    assert str(caught.value).isprintable()
    unit = Unit(row["unit"], row["layer"], ("a:0",), 1)
    with pytest.raises(StoreError, match=f"the name of {field} "):
        Run.begin(str(tmp_path / "new"), {}, [unit], about={})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "change",
    [{"unit": None}, {"unit": ""}, {"layer": None}, {"nodes": None}, {"nodes": [None]}, {"chains": None}],
    ids=str,
)
def test_a_value_that_is_missing_in_the_plan_is_named(tmp_path, change):
    Run.begin(str(tmp_path), {}, plan_of(1), about={})
    unseal(tmp_path)
    loose = pa.schema([field.with_nullable(True) for field in PLAN])
    row = {"unit": "a-00000", "layer": "a", "nodes": ["a:0"], "chains": 1} | change
    pq.write_table(pa.Table.from_pylist([row], schema=loose), tmp_path / "plan.parquet")
    with pytest.raises(StoreError, match=r"a value is missing|a unit has no name|is torn"):
        list(Run.open(str(tmp_path)).plan)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("conv1", "conv1"),
        ("features.1.expand3x3@mean@relu-00007", "features.1.expand3x3@mean@relu-00007"),
        ("left/right", "left/right"),
        ("a b", "a b"),
        ("weiß", "weiß"),
        ("/layer1/Conv", "layer1_Conv-"),
        ("a//b", "a_b-"),
        ("", "layer-e3b0c442"),
        ("./a", "._a-"),
    ],
)
def test_plain_names_are_the_names_of_files_and_others_are_made_fit(name, file):
    found = file_name(name)
    assert found == file or (file.endswith("-") and re.fullmatch(re.escape(file) + "[0-9a-f]{8}", found))


@settings(max_examples=500)
@given(st.text(max_size=300))
@example("../" * 20 + "etc")
@example("/" * 9)
@example("\ud800")
@example("é" * 300)
def test_the_files_of_a_unit_are_in_the_runs_folder_whatever_its_names(text):
    unit = Unit(text, text, (), 1)
    for path, top in ((unit.path, "samples"), (unit.state_path, "state")):
        parts = path.split("/")
        assert parts[0] == top
        assert not {"", ".", ".."} & set(parts) and not PurePosixPath(path).is_absolute()
        assert all(len(part.encode()) < 230 for part in parts) and "\0" not in path


@pytest.mark.parametrize("layer", ["/layer1/Conv", "a//b", "", ".", "x" * 300])
def test_a_unit_of_a_layer_with_an_odd_name_is_committed_and_found(tmp_path, layer):
    run = Run.begin(str(tmp_path), {}, [Unit(f"{layer}-00000", layer, ("n",), 1)], about={})
    unit = run.plan[0]
    run.location.write(unit.path, b"")
    assert run.done(run.plan) == bytearray([1])
