"""The plan survives its file, whatever the nodes are called."""

import pickle

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.errors import NodeError, StoreError
from raygen.nodes import Node, sum_node
from raygen.storage import Location
from raygen.store import Run, Unit
from raygen.store.schema import PLAN

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
numbers = st.integers(0, 2**31 - 1)
units = st.builds(
    Unit,
    name=names,
    layer=names,
    nodes=st.lists(names, max_size=20).map(tuple),
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
    pq.write_table(pq.read_table(tmp_path / "plan.parquet"), tmp_path / "plan.parquet")
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
