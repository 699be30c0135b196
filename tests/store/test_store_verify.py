"""Whatever is done to a file of a run is found, and no whole file is removed."""

import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from raygen.store import SAMPLES, Run, Unit, mend_run, verify_run

UNITS = (
    Unit("a-00000", "a", ("a:0", "a:1"), 2),
    Unit("a-00001", "a", ("a:2",), 2),
    Unit("b@mean-00000", "b", ("b:0@mean",), 2),
)
REQUEST = {"settings": {"draws": 3}, "input_shape": [1, 8, 8]}
FILE = f"samples/a/{UNITS[0].name}.parquet"


def png(width=5, height=4):
    sink = io.BytesIO()
    Image.fromarray(np.arange(width * height, dtype=np.uint8).reshape(height, width)).save(sink, format="PNG")
    return sink.getvalue()


def rows_of(unit: Unit, dead=()) -> list[dict[str, object]]:
    plain = {"string": "name", "int32": 1, "int64": 1, "float": 0.5, "double": 0.5, "bool": True}
    fixed = {field.name: plain[str(field.type)] for field in SAMPLES if str(field.type) in plain}
    size = (5, 4) if unit.layer == "a" else (8, 8)
    return [
        fixed
        | {"layer": unit.layer, "node": node, "chain": chain, "draw": draw}
        | {"image": {"bytes": png(*size), "path": None}, "dead": "dead" if node in dead else None}
        for node in unit.nodes
        for chain in range(unit.chains)
        for draw in range(1 if node in dead else 3)
    ]


def table(rows) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def whole_run(folder) -> Run:
    run = Run.begin(str(folder), REQUEST, UNITS, about={})
    for unit in UNITS:
        run.commit(unit, table(rows_of(unit, dead={"a:2"})))
    return run


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_whole_run_is_whole_and_nothing_is_changed(tmp_path):
    run = whole_run(tmp_path)
    before = contents(tmp_path)
    found = verify_run(run)
    assert (found.is_whole, found.whole, found.to_remove, found.foreign) == (True, 3, (), ())
    assert contents(tmp_path) == before
    assert mend_run(run.location, found) == 0
    assert contents(tmp_path) == before


def change(name, value, row=0):
    def apply(rows):
        rows[row][name] = value

    return apply


def swap_image(data):
    return change("image", {"bytes": data, "path": None}, row=3)


WRONG = {
    "a sample that is missing": (lambda rows: rows.pop(4), r"lacks 1 of 12 samples, such as a:0 chain 1 draw 1"),
    "a sample twice": (lambda rows: rows.append(dict(rows[5])), "has 1 samples twice"),
    "a draw too many": (change("draw", 3), r"lacks 1 of 12 .*; has 1 samples too many, such as a:0 chain 0 draw 3"),
    "a chain too many": (change("chain", 2), "has 1 samples too many, such as a:0 chain 2 draw 0"),
    "another unit's node": (change("node", "a:9"), "nodes of another unit"),
    "another layer": (change("layer", "b"), "another layer than a"),
    "a score that is no number": (change("score", float("nan")), "1 samples whose score is not finite"),
    "an infinite potential": (change("potential", float("inf")), "1 samples whose potential is not finite"),
    "an image cut short": (swap_image(png()[:-20]), "1 of 12 images cannot be decoded"),
    "an image with a flipped bit": (swap_image(bytes([*png()[:45], png()[45] ^ 1, *png()[46:]])), "cannot be decoded"),
    "no image": (swap_image(b""), "1 of 12 images cannot be decoded"),
    "an image of another size": (swap_image(png(4, 4)), "images of 4x4, 5x4"),
    "a dead node with draws": (lambda rows: [row.update(dead="dead") for row in rows[:6]], "4 samples too many"),
}


@pytest.mark.parametrize(("spoil", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_in_a_unit_is_found_and_only_that_unit_goes(tmp_path, spoil, said):
    run = whole_run(tmp_path)
    rows = rows_of(UNITS[0])
    spoil(rows)
    run.commit(UNITS[0], table(rows))
    found = verify_run(run)
    assert list(found.torn) == [FILE]
    assert re.search(said, found.torn[FILE]), found.torn[FILE]
    assert (found.is_whole, found.whole, found.missing) == (False, 2, 0)
    before = contents(tmp_path)
    assert mend_run(run.location, found) == 1
    assert contents(tmp_path) == {name: data for name, data in before.items() if name != FILE}
    again = verify_run(run)
    assert (again.torn, again.missing, again.first_missing) == ({}, 1, (FILE,))


def test_images_that_all_are_of_another_size_than_their_layers_are_found(tmp_path):
    run = whole_run(tmp_path)
    rows = rows_of(UNITS[1], dead={"a:2"})
    for row in rows:
        row["image"] = {"bytes": png(3, 3), "path": None}
    run.commit(UNITS[1], table(rows))
    assert verify_run(run).torn == {UNITS[1].path: "has images of 3x3 where others have 5x4"}


def test_images_larger_than_the_networks_input_are_found(tmp_path):
    run = whole_run(tmp_path)
    rows = rows_of(UNITS[2])
    for row in rows:
        row["image"] = {"bytes": png(9, 8), "path": None}
    run.commit(UNITS[2], table(rows))
    assert "9x8, more than the network's input of 8x8" in verify_run(run).torn[UNITS[2].path]


def test_columns_that_are_not_the_samples_are_found(tmp_path):
    run = whole_run(tmp_path)
    pq.write_table(table(rows_of(UNITS[0])).drop_columns(["score"]), tmp_path / FILE)
    assert "other columns" in verify_run(run).torn[FILE]


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_unit_torn_anywhere_is_found(tmp_path, data):
    run = Run.begin(str(tmp_path), REQUEST, UNITS, about={})
    if not (tmp_path / FILE).exists() or verify_run(run).whole < 3:
        run = whole_run(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    offset = data.draw(st.integers(0, len(whole) - 1))
    torn = data.draw(
        st.sampled_from([whole[:offset], whole[:offset] + bytes(len(whole) - offset), flip(whole, offset)])
    )
    if torn == whole:
        return
    (tmp_path / FILE).write_bytes(torn)
    try:
        rows = pq.read_table(io.BytesIO(torn), page_checksum_verification=True)
        same = rows.equals(pq.read_table(io.BytesIO(whole)))
    except Exception:
        same = False
    # A bit that nobody reads, as in the name of the library that wrote the file, may be anything.
    assert same or FILE in verify_run(run).torn
    (tmp_path / FILE).write_bytes(whole)


def flip(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :]


def test_partial_writes_states_and_foreign_files_are_distinguished(tmp_path):
    run = whole_run(tmp_path)
    (tmp_path / UNITS[1].path).unlink()
    run.state(UNITS[1]).write({"x": np.ones(3)})
    needed = (tmp_path / run.state(UNITS[1]).path).read_bytes()
    run.state(UNITS[0]).write({"x": np.ones(3)})
    (tmp_path / "state/b@mean-00000.safetensors").write_bytes(needed)
    (tmp_path / "state/nobody-00000.safetensors").write_bytes(needed)
    (tmp_path / "run.json.0a.tmp").write_bytes(b"{")
    (tmp_path / "samples/a/a-00001.parquet.0b.tmp").write_bytes(b"PAR1")
    (tmp_path / "samples/a/notes.txt").write_text("mine")
    (tmp_path / "readme.txt").write_text("mine")
    found = verify_run(run)
    assert found.first_missing == (UNITS[1].path,)
    assert set(found.partial) == {"run.json.0a.tmp", "samples/a/a-00001.parquet.0b.tmp"}
    assert found.foreign == ("samples/a/notes.txt",)
    assert found.unneeded == {
        "state/a-00000.safetensors": "of a unit that is done",
        "state/b@mean-00000.safetensors": "of a unit that is done",
        "state/nobody-00000.safetensors": "of no unit",
    }
    mend_run(run.location, found)
    left = contents(tmp_path)
    assert left["state/a-00001.safetensors"] == needed
    assert {"samples/a/notes.txt", "readme.txt"} <= left.keys()
    assert not [name for name in left if name.endswith(".tmp")]
    again = verify_run(run)
    assert (again.partial, again.unneeded, again.missing) == ((), {}, 1)


def test_a_torn_state_is_not_needed(tmp_path):
    run = whole_run(tmp_path)
    (tmp_path / UNITS[1].path).unlink()
    run.state(UNITS[1]).write({"x": np.ones(3)})
    path = tmp_path / run.state(UNITS[1]).path
    path.write_bytes(path.read_bytes()[:-3])
    assert verify_run(run).unneeded == {"state/a-00001.safetensors": "torn, or of another version"}


@pytest.mark.parametrize("how", ["torn", "missing"])
def test_a_plan_that_is_lost_is_made_again_and_no_unit_with_it(tmp_path, how):
    run = whole_run(tmp_path)
    before = contents(tmp_path)
    path = tmp_path / "plan.parquet"
    path.unlink() if how == "missing" else path.write_bytes(path.read_bytes()[:-30])
    found = verify_run(run)
    assert not found.is_whole
    mend_run(run.location, found)
    assert not path.exists()
    assert verify_run(Run.begin(str(tmp_path), REQUEST, UNITS, about={})).is_whole
    assert contents(tmp_path) == before


def test_a_lost_request_is_not_mended(tmp_path):
    run = whole_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"schema": 3}))
    with pytest.raises(Exception, match=r"run\.json is damaged"):
        verify_run(run)
