"""Small documents are bounded before they are believed."""

import json
import os
import threading

import pytest

from raygen import documents
from raygen.documents import parse_json, parse_yaml, read_text


def bomb(levels):
    """A document of which each line stands for the one before nine times."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


def test_a_document_that_stands_for_much_more_than_it_holds_is_refused():
    assert parse_yaml(bomb(2))["a1"] == [["x"] * 9] * 9
    with pytest.raises(ValueError, match="stands for more than"):
        parse_yaml(bomb(9))


def test_a_document_that_holds_itself_is_refused():
    with pytest.raises(ValueError, match=r"nested too deeply|more than"):
        parse_yaml("&a [*a]")


@pytest.mark.parametrize("depth", [100, 10_000])
def test_nesting_is_bounded(depth):
    nested = "[" * depth + "]" * depth
    for parse in (parse_yaml, parse_json):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse(nested)
        assert parse("[" * 30 + "]" * 30)


@pytest.mark.parametrize(
    "text", ["a: " + "9" * 5000, "a: [", "a: 2001-99-99", "a: \x00", "!!python/object:os.system {}"]
)
def test_what_is_no_document_is_one_kind_of_error(text):
    with pytest.raises(ValueError):
        parse_yaml(text)


def test_honest_documents_are_what_their_libraries_make_of_them():
    value = {"a": [1, 2.5, None, True, "é"], "b": {"c": "d"}}
    assert parse_json(json.dumps(value)) == parse_yaml(json.dumps(value)) == value


def test_only_so_much_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LARGEST", 1000)
    (tmp_path / "large").write_text("x" * 1001)
    for path in ("/dev/zero", tmp_path / "large"):
        with pytest.raises(ValueError, match="larger than 1,000 bytes"):
            read_text(path)
    (tmp_path / "fits").write_text("x" * 1000)
    assert read_text(tmp_path / "fits") == "x" * 1000
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "latin")


def test_a_pipe_of_the_shell_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("seed: 3",))
    writer.start()
    assert parse_yaml(read_text(tmp_path / "pipe")) == {"seed": 3}
    writer.join()


@pytest.mark.parametrize("says", [b"", b"seed: 3"])
def test_a_pipe_that_is_never_written_or_never_closed_is_not_waited_for(tmp_path, monkeypatch, says):
    monkeypatch.setattr(documents, "_PATIENCE", 0.2)
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR) if says else None
    if writer is not None:
        os.write(writer, says)
    with pytest.raises(ValueError, match=r"does not end within 0.2 s"):
        read_text(tmp_path / "pipe")
    if writer is not None:
        os.close(writer)


def test_a_folder_is_no_document(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_text(tmp_path)


def test_a_number_that_takes_hours_is_refused():
    assert parse_yaml("a: 1:30:00") == {"a": 5400}
    for text in ("a: 1" + ":1" * 1_000_000, "a: 1" + ":1" * 1_000_000 + ".5", "!!int '" + "1:" * 1_000_000 + "1'"):
        with pytest.raises(ValueError, match="a number of more than 10,000 digits"):
            parse_yaml(text)
    # Text of any length is no number.
    assert parse_yaml("a: '" + "1" * 20_000 + "'") == {"a": "1" * 20_000}


def test_values_are_counted_before_they_are_made():
    for parse, most in ((parse_yaml, 2**17), (parse_json, 2**20)):
        assert len(parse("[" + "1," * 1000 + "1]")) == 1001
        with pytest.raises(ValueError, match=rf"more than {most:,} values"):
            parse("[" + "[]," * most + "1]")
    with pytest.raises(ValueError, match="more than"):
        parse_json(("[" + "[]," * 2**20 + "1]").encode())


def test_what_stands_for_no_value_is_bounded_too():
    with pytest.raises(ValueError, match="longer than 4,194,304 characters"):
        parse_yaml("#\n" * 2**21 + "a")


def test_merged_mappings_are_counted_as_often_as_they_are_merged():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}")["b"] == {"x": 1, "y": 2}
    lines = ["a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(9)) + "}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 9)]
    with pytest.raises(ValueError, match="stands for more than"):
        parse_yaml("\n".join(lines))


@pytest.mark.parametrize("text", ["!!int ''", "!!bool maybe", "!!timestamp noon", "!!float '1:1e'", "!!set [a]"])
def test_a_value_that_is_not_what_its_tag_says_is_refused(text):
    with pytest.raises(ValueError):
        parse_yaml(text)
