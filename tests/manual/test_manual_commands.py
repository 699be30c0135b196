"""Every command and every piece of Python that the README, the manual and the jobs show is run, made small."""

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from manual_pages import MANUAL, ROOT, Block, Page, commands, manual_pages, options, read_page
from PIL import Image

from raygen.bench import LegibilityBenchSettings, Table1Settings
from raygen.cli import main
from raygen.config import (
    DemoConfig,
    GalleryConfig,
    LookConfig,
    NodesConfig,
    PipelineConfig,
    PretrainConfig,
    ReferenceConfig,
    SampleConfig,
    TuneConfig,
    load_config,
)
from raygen.settings import Settings

README = read_page(ROOT / "README.md")
PAGES = [page for page in manual_pages() if page.name != "raygen/manual/how-to-add.md"]
SMALL = {
    "sample": {"chains": "2", "draws": "2", "thin": "1", "warm-up": "2", "steps": "1", "local": None},
    "pretrain": {"limit": "64", "epochs": "1", "local": None},
    "reference": {"limit": "200"},
}
"""Options that a command is given where it does not have them."""
SMALL["pipeline"] = SMALL["sample"] | SMALL["pretrain"]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process as it was: its handler of a signal, its variables, and what is imported from the sandbox."""
    handler, path, variables = signal.getsignal(signal.SIGTERM), list(sys.path), dict(os.environ)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    signal.signal(signal.SIGTERM, handler)
    sys.path[:] = path
    sys.modules.pop("mynet", None)
    for name in set(os.environ) - set(variables):
        del os.environ[name]


def small(words: list[str]) -> list[str]:
    """Return a command of raygen with the options that make it small."""
    given = set(options(shlex.join(words)))
    more = [(name, value) for name, value in SMALL.get(words[0], {}).items() if name not in given]
    return words + [word for name, value in more for word in (f"--{name}", value) if word is not None]


def run_raygen(words: list[str], block: Block) -> None:
    command = small(words)
    assert main(command) == block.status, f"{block}: raygen {shlex.join(command)}"


def run(words: list[str], block: Block) -> None:
    """Run a command of a block for real, or check as much of it as can be without what it needs."""
    match words:
        case ["export", assignment]:
            name, _, value = assignment.partition("=")
            os.environ[name] = value
        case ["raygen", *rest]:
            run_raygen(rest, block)
        case ["python", script, *rest] if (ROOT / script).parent == ROOT / "jobs":
            assert (ROOT / script).is_file()
            run_raygen([Path(script).stem, *rest], block)
        case ["ray", "job", "submit", *rest]:
            run(list(ray_submits(rest)), block)
        case _:
            pytest.fail(f"{block}: no way to run {shlex.join(words)}")


CONFIGS: dict[str, type[Settings]] = {
    "demo": DemoConfig, "pipeline": PipelineConfig, "pretrain": PretrainConfig, "nodes": NodesConfig,
    "reference": ReferenceConfig, "tune": TuneConfig, "look": LookConfig, "sample": SampleConfig,
    "gallery": GalleryConfig,
    "bench table1": Table1Settings, "bench legibility": LegibilityBenchSettings,
}  # fmt: skip


def values_of(kind: type[Settings], words: list[str]) -> dict[str, Any]:
    """Return the options of a command as plain values; what is no setting of ``kind`` is left out."""
    found: dict[str, Any] = {}
    for word, after in zip(words, [*words[1:], "--"], strict=True):
        name = word.removeprefix("--").removeprefix("no-").replace("-", "_")
        if not word.startswith("--") or name not in kind.model_fields:
            continue
        text, kinds = None if after.startswith("--") else after, str(kind.model_fields[name].annotation)
        if text is None:
            found[name] = not word.startswith("--no-")
        elif ("str" in kinds and "dict" not in kinds) or "Literal" in kinds:
            found[name] = text
        else:
            found[name] = yaml.safe_load(f"[{text}]" if "tuple" in kinds else text)
    return found


def ray_submits(words: list[str]) -> tuple[str, ...]:
    """Return what a submission runs, once Ray's own command line has taken its options."""
    from ray.dashboard.modules.job.cli import submit

    with submit.make_context("submit", list(words)) as context:
        entrypoint: tuple[str, ...] = context.params["entrypoint"]
    return entrypoint


def try_page(page: Page, folder: Path, is_tried: Callable[[Block], bool]) -> None:
    names: dict[str, Any] = {"__name__": page.name}
    for block in page.blocks:
        if block.how[:1] == ("file",):
            (folder / block.how[1]).write_text(block.tried)
        elif block.language == "python" and is_tried(block):
            exec(compile(block.tried, str(block), "exec"), names)
        elif block.language == "sh" and is_tried(block):
            for words in commands(block.tried):
                run(words, block)


def is_fast(block: Block) -> bool:
    return not block.is_slow and "parse" not in block.how and "python3 -m venv" not in block.text


def test_the_readme_runs_from_its_first_line_to_its_last_in_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try_page(README, tmp_path, is_fast)


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: Path(page.name).stem)
def test_each_command_as_it_is_shown_has_settings_that_are_possible(page: Page) -> None:
    for block in page.blocks:
        for words in commands(block.text) if block.language == "sh" and not block.status else ():
            command = " ".join(words[1:3] if words[1:2] == ["bench"] else words[1:2])
            if words[0].endswith("raygen") and command in CONFIGS and "--config" not in words:
                CONFIGS[command].parse(values_of(CONFIGS[command], words), where=str(block))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: Path(page.name).stem)
def test_each_command_and_piece_of_python_of_a_page_runs(page: Page, sandbox: Callable[[], Path]) -> None:
    try_page(page, sandbox(), is_fast)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.name)
def test_the_submission_that_a_job_shows_is_one_that_ray_and_the_command_take(path: Path) -> None:
    shown = re.findall(r"``ray job submit (.*?)``", path.read_text())
    assert len(shown) == (path.stem != "__init__")
    for text in shown:
        python, script, option, file = ray_submits(shlex.split(text))
        assert (python, ROOT / script, option) == ("python", path, "--config")
        load_config(CONFIGS[path.stem], str(ROOT / file), {})


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.is_slow for block in page.blocks)], ids=lambda page: page.name
)
def test_each_command_that_needs_ray_runs_on_it(page: Page, sandbox: Callable[[], Path], launcher: Any) -> None:
    folder = sandbox()
    for block in page.blocks:
        for words in commands(block.tried) if block.is_slow else ():
            assert words[0] == "raygen"
            command = [word for word in small(words[1:]) if word != "--local"]
            done = launcher.run("env", "-C", folder, sys.executable, "-m", "raygen", *command)
            assert done.returncode == 0, f"{block}: {shlex.join(words)}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_prints_what_the_readme_shows_and_makes_its_picture(tmp_path: Path, launcher: Any) -> None:
    (shown,) = (block.text for block in README.blocks if block.language == "text")
    command = next(words for block in README.blocks for words in commands(block.text) if "demo" in words)
    done = launcher.run(sys.executable, "-m", "raygen", *command[1:], "--out", tmp_path / "raygen-demo", timeout=1100)
    assert done.returncode == 0, done.stderr
    printed = {without_figures(line) for line in done.stdout.splitlines()}
    assert [line for line in shown.splitlines() if without_figures(line) not in printed] == []
    made, kept = (
        np.asarray(Image.open(path).convert("L"), dtype=float)
        for path in (tmp_path / "raygen-demo/gallery/ip2/contact_sheet.png", MANUAL / "samples.png")
    )
    assert made.shape == kept.shape
    # The same picture to the last pixel on the same kind of CPU; elsewhere chains part after some steps.
    assert np.corrcoef(made.ravel(), kept.ravel())[0, 1] > 0.7


def without_figures(line: str) -> str:
    """Return a line of output without its numbers, its clock and its folder."""
    line = re.sub(r"file://\S*/raygen-demo/", "file:///raygen-demo/", line)
    line = re.sub(r", \d[^,]* left$", "", line)
    return " ".join(re.sub(r"[\d,.]+", "#", line).split())
