"""The plan survives its file, whatever the nodes are called."""

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.store import PLAN, Location, Run, Unit

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
    place = str(tmp_path_factory.mktemp("run"))
    Run.begin(place, {}, plan, about={})
    assert Run.open(place).units() == tuple(plan)


def test_the_file_has_the_promised_columns_and_the_version(tmp_path):
    Run.begin(str(tmp_path), {}, [Unit("u", "conv1", ("conv1:0", "conv1:1"), 4)], about={})
    schema = pq.read_schema(Location.of(str(tmp_path)).root + "/plan.parquet")
    assert schema.equals(PLAN)
    assert schema.metadata[b"raygen.schema"] == b"2"
