"""What files hold reaches a terminal as text: nothing moves the cursor, forges a line or shows a secret."""

import io
import json
import logging
import sys
import time

import pytest
import torch
from rich.console import Console

from raygen.cli.display import Display
from raygen.cli.tables import class_table, layer_table, table
from raygen.networks import lenet

NAME = "lion\x1b[2J\r\nforged: 1\u202e"
SHOWN = r"lion\x1b[2J\r\nforged: 1\u202e"


def test_a_line_that_is_said_is_one_line_whatever_it_holds():
    stream = io.StringIO()
    display = Display(stream)
    display.stage(f"stage [red] :cat: {NAME}")
    display.say(f"driver: {NAME} [9-950] :dog: s3://KEY:SECRET@bucket")
    display.table(table(("layer", "units"), [(NAME, "1")]))
    display.close()
    assert stream.getvalue().splitlines() == [
        f"stage [red] :cat: {SHOWN} ...",
        f"driver: {SHOWN} [9-950] :dog: s3://bucket",
        f"{'layer'.ljust(len(SHOWN))}  units",
        f"{SHOWN}      1",
    ]


def test_a_live_line_is_no_markup(monkeypatch):
    display = Display(io.StringIO())
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr(display, "_console", console)
    display.stage("sample")
    display.update(f"[/nothing] fc:[9-950] {NAME}")
    display.live(f"[red]x{NAME}")
    display.close()
    assert r"lion\x1b" in console.file.getvalue() and "\x1b[2J" not in console.file.getvalue()


def test_tables_show_names_as_they_are_written():
    assert class_table([NAME, "Löwe"]).splitlines()[1].startswith(f"{SHOWN}  ")
    assert layer_table([], []).count("\n") == 0


@pytest.fixture
def weights(tmp_path):
    torch.save(lenet(3).state_dict(), tmp_path / "net.pt")
    about = {"network": "lenet", "arguments": {"classes": 3}, "class_names": [NAME, "b", "c"]}
    (tmp_path / "net.json").write_text(json.dumps(about))
    return tmp_path / "net.pt"


def test_class_names_of_a_file_are_listed_as_text(call, weights):
    said = call("nodes", "--weights", weights, "--classes")
    assert (said.status, said.err) == (0, "")
    assert said.out.replace("\n", "").isprintable() and SHOWN in said.out
    said = call("nodes", "--weights", weights)
    assert said.out.replace("\n", "").isprintable() and SHOWN in said.out


def test_half_a_character_in_a_class_name_is_refused(call, weights):
    (weights.parent / "net.json").write_text(
        json.dumps({"arguments": {"classes": 3}, "class_names": ["\udcff", "b", "c"]})
    )
    said = call("nodes", "--weights", weights)
    right = "give names in UTF-8"
    assert (said.status, said.err) == (
        2, rf"raygen: class names of network lenet: '\udcff' holds half a character; {right}" + "\n"
    )  # fmt: skip


def test_the_machine_in_a_lock_is_shown_as_text(call, weights):
    nodes = ("--nodes", "ip2:0", "--weights", weights, "--out", "run", "--local")
    short = ("--chains", 2, "--draws", 1, "--warm-up", 1, "--steps", 1)
    assert call("sample", *nodes, *short).status == 0
    lock = {"key": "k", "host": NAME, "system": "s", "pid": 1, "began": "b", "since": 1.0, "renewed": time.time()}
    with open("run/lock.json", "w") as file:  # noqa: PTH123
        json.dump(lock, file)
    with open("run/status.json", "w") as file:  # noqa: PTH123
        json.dump({"set_aside": {NAME: NAME}, "lost": 1}, file)
    said = call("status", "run")
    assert said.status == 0 and said.out.replace("\n", "").isprintable()
    assert f"process 1 on {SHOWN}" in said.out
    assert not any(line.startswith("forged") for line in said.out.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "--nodes", "ip2:0", "--out", "s3://KEY:SECRET@bucket/run", "--chains", "s3://KEY:SECRET@bucket"),
        ("sample", "--nodes", "ip2:0", "--weights", "s3://KEY:SECRET@bucket/w.pt", "--out", "run", "--local"),
        ("sample", "--nodes", "ip2:0", "--weights", "random", "--out", "r",
         "--reference-file", "s3://KEY:SEC/RET@bucket/r"),
        ("sample", "--config", "s3://KEY:SECRET@bucket/c.yaml"),
        ("status", "s3://KEY:SECRET@bucket/run", "--out", "s3://KEY:SECRET@bucket/other"),
        ("status", "ftp://KEY:SECRET@host/run"),
        ("status", "s3://KEY:SEC/RET@bucket/run"),
        ("sample", "s3://KEY:SECRET@bucket/run"),
        ("pretrain", "--data", "s3://KEY:SECRET@bucket", "--out", "r", "--local"),
        ("pretrain", "--data", "folder", "--data-root", "s3://KEY:SECRET@bucket?nonsense=SECRET",
         "--out", "r", "--local"),
        ("nodes", "--weights", "random", "--network", "s3://KEY:SECRET@bucket"),
        ("nodes", "--weights", "random", "--class-names", "s3://KEY:SECRET@bucket/names"),
        ("nodes\x1b[2J",),
        ("nodes", "--weights", "random\x1b[2J"),
        ("nodes", "--\x1b[2J"),
    ],
)  # fmt: skip
def test_no_error_shows_a_secret_or_what_a_terminal_obeys(call, arguments):
    said = call(*arguments)
    assert said.status == 2
    assert "SECRET" not in said.err and "RET@" not in said.err
    assert said.err.count("\n") == 1 and said.err.rstrip("\n").isprintable()


def test_a_warning_is_a_line_of_text(call, capsys, monkeypatch):
    from raygen import networks

    def warn(settings):
        logging.getLogger("raygen.anything").warning("no image of %s", NAME)
        raise KeyboardInterrupt

    monkeypatch.setattr(networks, "load_network", warn)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert call("nodes").err.splitlines()[0] == f"no image of {SHOWN}"


def test_what_an_encoding_lacks_is_escaped(call, weights, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="iso8859-7", write_through=True)
    (weights.parent / "net.json").write_text(
        json.dumps({"arguments": {"classes": 3}, "class_names": ["Löwe", "b", "c"]})
    )
    monkeypatch.setattr(sys, "stdout", out)
    assert call("nodes", "--weights", weights, "--classes").status == 0
    assert rb"L\xf6we" in out.buffer.getvalue()
    assert out.errors == "strict"
