"""What lies in the working directory, which may have been downloaded, is no code that raygen runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOSTILE = (
    "ray", "sklearn", "torch", "yaml", "numpy", "pyarrow", "click", "rich", "pydantic", "json", "random", "jinja2",
    "tensorboard", "onnx", "triton", "cupy", "sitecustomize", "usercustomize", "conftest",
)  # fmt: skip


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose modules leave a mark when they are imported, and fail."""
    for name in HOSTILE:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\nraise SystemExit")
    return tmp_path


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raygen", *arguments],
        cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


SAMPLE = [
    "sample", "--nodes", "ip2:0", "--weights", "random", "--out", "run", "--local",
    "--chains", "2", "--draws", "1", "--thin", "1", "--warm-up", "1", "--steps", "1",
]  # fmt: skip


def test_nothing_in_the_working_directory_is_imported(hostile):
    for arguments in (
        ["--help"], ["nodes", "--weights", "random"], SAMPLE, ["status", "run"], ["verify", "run"],
        ["gallery", "--out", "run"], ["nodes", "--weights", "random", "--network", "torch:net"],
    ):  # fmt: skip
        done = run(hostile, *arguments)
        assert done.returncode == (2 if "torch:net" in arguments else 0), done.stderr
        assert not (hostile / "ran").exists(), (arguments, (hostile / "ran").read_text())


def test_the_command_line_leaves_the_search_path_alone(tmp_path, monkeypatch, capsys):
    from raygen.cli import main

    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert main(["nodes", "--weights", "random"]) == 0
    assert sys.path == before


def test_a_users_network_is_found_in_the_working_directory(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from raygen.networks import lenet\nimport mine_too\nnet = mine_too.make(lenet)\n"
    )
    (tmp_path / "mine_too.py").write_text("def make(factory):\n    return lambda: factory(4)\n")
    done = run(tmp_path, "nodes", "--weights", "random", "--network", "mine:net", "--input-size", "28")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ip2" in done.stdout
