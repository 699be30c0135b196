"""What ``raygen bench`` says while it measures, and at the end."""

import json

import pytest

from raygen.cli import main

SMALL = ["bench", "farm", "--rounds", "0", "--idle-units", "0", "--virtual-actors", "20", "--virtual-units", "400"]


def test_each_case_is_shown_when_it_is_measured_and_all_of_them_are_in_a_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(SMALL) == 0
    out, err = capsys.readouterr()
    header, *rows = out.splitlines()
    assert header.split() == ["case", "value", "unit", "baseline", "ratio"]
    started, *shown = err.splitlines()
    assert started == "bench farm ..."
    assert len(rows) == len(shown) == 4
    for row, line in zip(rows, shown, strict=True):
        case, ratio = line.partition(": ")[0], line.split()[-1]
        assert row.startswith(case) and row.split()[-1] == ratio


def test_as_json_every_line_is_a_case_and_nothing_else_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--json"]) == 0
    out, err = capsys.readouterr()
    assert len([json.loads(line)["case"] for line in out.splitlines()]) == 4
    assert err == ""
