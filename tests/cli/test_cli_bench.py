"""What ``raygen bench`` says while it measures, and at the end."""

import json
from pathlib import Path

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


LEGIBILITY = ["bench", "legibility", "--weights", "random", "--nodes", "conv1:2", "--second-network", "lenet",
              "--second-weights", "random", "--chains", "2", "--draws", "1", "--thin", "1", "--warm-up", "2",
              "--steps", "1", "--questions", "3", "--threads", "1"]  # fmt: skip


def test_legibility_is_a_table_of_kinds_and_measures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*LEGIBILITY, "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    header, *rows = out.splitlines()
    assert header.split()[:4] == ["kind", "images", "gradients", "seconds"]
    assert [row.split()[0] for row in rows] == ["draws", "means", *["optimiser"] * 3, "natural", "modes"]
    assert len(err.splitlines()) == 1 + len(rows)


def test_legibility_as_json_is_beside_the_optimisers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*LEGIBILITY, "--out", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert {each["bench"] for each in found} == {"legibility"}
    assert all(each["ratio"] == 1 for each in found if each["case"].startswith("optimiser,") and each["baseline"])
    assert err == ""


def test_legibility_without_a_second_network_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "legibility", "--nodes", "conv1:2", "--out", "x"]) == 2
    assert "second_network is not given; give second_network (--second-network)" in capsys.readouterr().err
