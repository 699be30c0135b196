"""The state of an unfinished unit: whole and of this run and unit, or not there."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from raygen.errors import StoreError
from raygen.store import SAMPLES, Run, Unit

UNITS = (Unit("a-00000", "a", ("a:0", "a:1"), 2), Unit("a-00001", "a", ("a:2",), 2))
ARRAYS = {
    "count": np.array(7, dtype=np.int64),
    "none": np.zeros((0, 3)),
    "chains": np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32).T,
    "flags": np.array([True, False]),
    "bytes": np.frombuffer(b"\x00\xffraygen", dtype=np.uint8),
}


def begin(folder, request=None):
    return Run.begin(str(folder), request or {"seed": 1}, UNITS, about={})


def assert_same(found, arrays=ARRAYS):
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_arrays_come_back_as_they_were(tmp_path):
    state = begin(tmp_path).state(UNITS[0])
    assert state.read() is None
    state.write(ARRAYS)
    assert_same(begin(tmp_path).state(UNITS[0]).read())
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["a-00000.safetensors"]


def test_the_last_writer_wins(tmp_path):
    run = begin(tmp_path)
    run.state(UNITS[0]).write(ARRAYS)
    run.state(UNITS[0]).write({"count": np.array(8)})
    assert_same(run.state(UNITS[0]).read(), {"count": np.array(8)})


def test_a_commit_drops_the_units_own_state_alone(tmp_path):
    run = begin(tmp_path)
    for unit in UNITS:
        run.state(unit).write(ARRAYS)
    run.commit(UNITS[0], SAMPLES.empty_table())
    assert run.state(UNITS[0]).read() is None and run.state(UNITS[1]).read() is not None
    run.commit(UNITS[0], SAMPLES.empty_table())  # there is nothing to drop any more
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["a-00001.safetensors"]


@pytest.mark.parametrize(
    ("request_", "unit"),
    [
        ({"seed": 2}, UNITS[0]),
        ({"seed": 1}, Unit("a-00000", "a", ("a:0", "a:3"), 2)),
        ({"seed": 1}, Unit("a-00000", "a", ("a:0", "a:1"), 3)),
    ],
)
def test_the_state_of_something_else_is_ignored(tmp_path, request_, unit):
    begin(tmp_path / "one").state(UNITS[0]).write(ARRAYS)
    other = begin(tmp_path / "other", request_)
    (tmp_path / "other/state").mkdir()
    (tmp_path / "other/state/a-00000.safetensors").write_bytes(
        (tmp_path / "one/state/a-00000.safetensors").read_bytes()
    )
    assert other.state(unit).read() is None
    assert begin(tmp_path / "same").state(UNITS[0]).read() is None
    (tmp_path / "same/state").mkdir()
    (tmp_path / "same/state/a-00000.safetensors").write_bytes((tmp_path / "one/state/a-00000.safetensors").read_bytes())
    assert_same(begin(tmp_path / "same").state(UNITS[0]).read())


@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_state_that_is_torn_anywhere_is_ignored(tmp_path, data):
    state = begin(tmp_path).state(UNITS[0])
    state.write(ARRAYS)
    path = tmp_path / state.path
    whole = path.read_bytes()
    offset = data.draw(st.integers(0, len(whole) - 1))
    torn = data.draw(
        st.sampled_from(
            [
                whole[:offset],
                whole[:offset] + bytes(len(whole) - offset),
                whole[:offset] + bytes([whole[offset] ^ 255]) + whole[offset + 1 :],
            ]
        )
    )
    path.write_bytes(torn)
    found = state.read()
    if torn != whole and found is not None:
        assert_same(found)  # only what says nothing, such as a blank, may differ
    path.write_bytes(whole)
    assert_same(state.read())


def test_a_storage_that_refuses_is_an_error_that_names_the_file(tmp_path):
    run = begin(tmp_path)
    (tmp_path / "state").write_text("no folder")
    with pytest.raises(StoreError, match=r"state/a-00000\.safetensors cannot be written"):
        run.state(UNITS[0]).write(ARRAYS)
    assert run.state(UNITS[0]).read() is None
    run.state(UNITS[0]).remove()
    run.commit(UNITS[0], SAMPLES.empty_table())
