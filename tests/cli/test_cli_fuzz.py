"""Whatever is wrong in a value, a path or a document of a run: one line and status 2 (3 where parts lack), or right.

Cases are drawn by hypothesis, always the same ones; what was once a traceback stands among the examples.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import click
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raygen.cli import main
from raygen.cli.main import cli

FEW = settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)  # fmt: skip

SMALL = [
    "--network",
    "lenet",
    "--weights",
    "random",
    "--nodes",
    "conv1:0",
    "--chains",
    "2",
    "--draws",
    "1",
    "--warm-up",
    "2",
    "--steps",
    "2",
    "--local",
]
COMMANDS = {
    "nodes": ["--network", "lenet", "--weights", "random"],
    "sample": [*SMALL, "--out", "run"],
    "pretrain": ["--data", "digits", "--limit", "20", "--epochs", "1", "--local", "--out", "run"],
    "reference": [
        "--network",
        "lenet",
        "--weights",
        "random",
        "--data",
        "digits",
        "--limit",
        "20",
        "--out",
        "reference.safetensors",
    ],
    "status": ["--out", "made"],
    "verify": ["--out", "made"],
    "gallery": ["--out", "made"],
}
VALUES = st.sampled_from(
    [
        "",
        " ",
        "-1",
        "0",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "9" * 5000,
        "1_0",
        "0x10",
        "é",
        "\udcff",
        "\u202e",
        "💥",
        "\x1b[31m",
        "../../..",
        "s3://",
        "s3:///x",
        "gs://",
        "file://",
        "x://y",
        "/dev/null",
        "/dev/null/x",
        "/proc/self/mem",
        "~nobody/x",
        "[",
        "{a: [",
        "]",
        "2001-99-99",
        "2001-01-01",
        "null",
        "~",
        "*",
        "!!python/name:os.system",
        "a" * 300,
        "conv1",
        "conv1:",
        "conv1:[",
        "conv1:0-99999999999",
        'conv1:"',
        ":0",
        "a:b:c",
        "yes",
        "true",
        "[1, 2]",
        "{a: 1}",
        "'",
        '"',
        "\n",
        "a\nb",
    ]
)  # fmt: skip
THINGS = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.just(10**4299) | st.floats() | VALUES | st.just("a\0b"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(VALUES, inner, max_size=2),
    max_leaves=4,
)


def run(*arguments):
    """Run a command in this process; return its status and what it said."""
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(arguments))
    signal.signal(signal.SIGTERM, handler)
    return status, out.getvalue(), err.getvalue()


def assert_ends_well(status, out, err):
    assert status in {0, 2, 3}, err
    assert "Traceback" not in out + err
    if status:
        said = [line for line in err.splitlines() if line.startswith("raygen")]
        assert len(said) == 1, err
        assert len(said[0]) < 13_000
        assert said[0].isprintable()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of two units."""
    folder = tmp_path_factory.mktemp("fuzz") / "made"
    status, _, err = run("sample", *SMALL, "--nodes", "conv1:0 ip2:1", "--out", str(folder))
    assert status == 0, err
    run("gallery", "--out", str(folder))
    return folder


@contextlib.contextmanager
def here(made):
    """Work in an empty folder that holds a copy of the run."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            shutil.copytree(made, "made")
            yield Path(folder)
        finally:
            os.chdir(before)


READERS = st.sampled_from(["status", "verify", "gallery", "sample"])
OPTIONS = [
    (name, option.opts[0])
    for name in COMMANDS
    for option in cli.get_command(click.Context(cli), name).params
    if option.opts and option.opts[0] not in {"--help", "--download", "--workers", "--threads", "--address"}
]


@FEW
@given(st.sampled_from(OPTIONS), VALUES)
def test_whatever_an_option_is_given(made, option, value):
    command, name = option
    with here(made):
        assert_ends_well(*run(command, *COMMANDS[command], name, value))


@FEW
@given(st.sampled_from(sorted(COMMANDS)), st.data())
def test_whatever_a_configuration_holds(made, command, data):
    names = [name.removeprefix("--").replace("-", "_") for owner, name in OPTIONS if owner == command]
    document = data.draw(st.dictionaries(st.sampled_from(names) | VALUES, THINGS, max_size=2))
    with here(made):
        Path("c.yaml").write_text(yaml.safe_dump(document), encoding="utf-8", errors="surrogatepass")
        assert_ends_well(*run(command, *COMMANDS[command], "--config", "c.yaml"))


@FEW
@given(
    st.sampled_from(["status", "verify", "gallery", "sample"]), st.sampled_from(["run.json", "status.json"]), st.data()
)
def test_whatever_a_document_of_the_run_holds(made, command, name, data):
    document = json.loads((made / name).read_text())
    inner = document
    while True:
        key = data.draw(st.sampled_from(sorted(inner)))
        if not (isinstance(inner[key], dict) and inner[key] and data.draw(st.booleans())):
            break
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[key] = data.draw(THINGS)
    else:
        del inner[key]
    with here(made):
        Path("made", name).write_text(json.dumps(document), encoding="utf-8")
        again = [*SMALL, "--nodes", "conv1:0 ip2:1", "--out", "made"]
        assert_ends_well(*run(command, *(again if command == "sample" else COMMANDS[command])))


@FEW
@given(
    st.sampled_from(["status", "verify", "gallery", "sample"]),
    st.sampled_from(range(4)),
    st.floats(0, 1),
    st.integers(0, 8),
)
@example("gallery", 3, 0.5, 8)
@example("status", 0, 0.0, 8)
def test_whatever_bit_of_a_file_of_the_run_is_another(made, command, file, where, bit):
    paths = sorted(
        path for path in made.rglob("*") if path.suffix in {".json", ".parquet"} and "gallery" not in path.parts
    )
    path = paths[file % len(paths)].relative_to(made)
    data = bytearray((made / path).read_bytes())
    at = min(int(where * len(data)), len(data) - 1)
    data = data[:at] if bit == 8 else data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
    with here(made):
        Path("made", path).write_bytes(data)
        again = [*SMALL, "--nodes", "conv1:0 ip2:1", "--out", "made"]
        assert_ends_well(*run(command, *(again if command == "sample" else COMMANDS[command])))
