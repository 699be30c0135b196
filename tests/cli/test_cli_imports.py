"""What works without Ray does not import it, and what only shows something imports no heavy library."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raygen.cli.main import cli

Call = Callable[..., Any]
HEAVY = ("torch", "torchvision", "ray", "pyarrow", "sklearn", "matplotlib", "scipy", "arviz_stats")
RUN = ("--nodes", "conv1:0", "--weights", "random", "--local", "--chains", "2", "--draws", "2", "--thin", "1")
RUN += ("--warm-up", "2", "--steps", "1")


def check(*names: str) -> str:
    """Return a program that fails where one of these libraries has been imported."""
    return f"import sys; loaded = [name for name in {names!r} if name in sys.modules]; assert not loaded, loaded"


def commands() -> list[str]:
    subcommands = [f"bench {name}" for name in getattr(cli.lazy_commands["bench"].load(), "commands", {})]
    assert len(subcommands) >= 6
    return [*cli.lazy_commands, *subcommands]


def test_the_stages_and_the_command_line_are_imported_without_ray(launcher: Any) -> None:
    done = launcher.run(sys.executable, "-c", f"import raygen.stages, raygen.cli, raygen.config; {check('ray')}")
    assert done.returncode == 0, done.stderr


def test_nodes_local_sampling_and_the_gallery_do_not_import_ray(launcher: Any, tmp_path: Path) -> None:
    sample = ["sample", "--out", str(tmp_path / "run"), *RUN]
    program = f"""
from raygen.cli import main
assert main(["nodes", "--weights", "random"]) == 0
assert main({sample!r}) == 0
assert main(["gallery", "--out", {str(tmp_path / "run")!r}]) == 0
{check("ray")}
"""
    done = launcher.run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    ["", "--help", "--version", "help", "help commands", "smaple", *(f"{name} --help" for name in commands())],
)
def test_help_version_and_the_manual_import_no_heavy_library(command: str, launcher: Any) -> None:
    program = f"from raygen.cli import main; main({shlex.split(command)!r}); {check(*HEAVY)}"
    done = launcher.run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    ["sample --nodes conv1:0", "sample --out run --nodes conv1:0 --chains 0", "sample --config nowhere.yaml", "status"],
)
def test_settings_that_are_wrong_are_refused_before_a_heavy_library_is_imported(command: str, launcher: Any) -> None:
    program = f"from raygen.cli import main; assert main({command.split()!r}) == 2; {check(*HEAVY)}"
    done = launcher.run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_the_status_of_a_local_run_imports_no_heavy_library(options: list[str], call: Call, launcher: Any) -> None:
    assert call("sample", "--out", "run", *RUN).status == 0
    command = ["status", str(Path("run").absolute()), *options]
    done = launcher.run(
        sys.executable, "-c", f"from raygen.cli import main; assert main({command!r}) == 0; {check(*HEAVY)}"
    )
    assert done.returncode == 0, done.stderr
    assert "1" in done.stdout
