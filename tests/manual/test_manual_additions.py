"""The page how-to-add: each change is made in a copy of the package, and its commands are run there."""

import io
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manual_pages import MANUAL, ROOT, Block, Page, commands, read_page
from PIL import Image

from raygen.store import Run

PAGE = read_page(MANUAL / "how-to-add.md")
SMALL = {
    "sample": ("--chains", "2", "--draws", "4", "--thin", "1", "--warm-up", "2"),
    "pretrain": ("--limit", "64", "--epochs", "1"),
}
RECIPES = [Page(PAGE.name, f"## {part}") for part in PAGE.text.split("\n## ")[1:]]


def title(recipe: Page) -> str:
    return recipe.text.partition("\n")[0].removeprefix("## ")


def changes(block: Block) -> list[tuple[str, str, str]]:
    """Return what a diff changes: (file, lines before, lines after) of each hunk."""
    found = []
    for file, hunks in re.findall(r"^--- (\S+)\n(.*?)(?=^--- |\Z)", block.text, re.MULTILINE | re.DOTALL):
        for hunk in hunks.split("@@\n"):
            lines = [line if line.strip() else " \n" for line in hunk.splitlines(keepends=True)]
            before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            found.append((file, before, after))
    return found


def make(recipe: Page, folder: Path) -> None:
    """Make a recipe's new files and changes in a folder that holds the package."""
    for block in recipe.blocks:
        if block.how[:1] == ("file",):
            (folder / block.how[1]).write_text(block.text)
        for file, before, after in changes(block) if block.language == "diff" else ():
            text = (folder / file).read_text(encoding="utf-8")
            assert text.count(before) == 1, f"{title(recipe)}: {file} does not hold once: {before}"
            (folder / file).write_text(text.replace(before, after), encoding="utf-8")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, in a folder of its own."""
    shutil.copytree(ROOT / "raygen", tmp_path / "raygen", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_there_is_a_recipe_for_each_kind_of_part() -> None:
    assert [title(recipe).split()[-1] for recipe in RECIPES] == [
        "kernel",
        "reference",
        "architecture",
        "set",
        "gallery",
    ]


@pytest.mark.parametrize("recipe", RECIPES, ids=title)
def test_a_recipe_is_short_names_the_file_to_look_at_and_fits_the_code_as_it_is(recipe: Page, package: Path) -> None:
    named = re.findall(r"`(raygen/[\w/.]+)`", recipe.prose)
    assert named and all((ROOT / path).exists() for path in named)
    make(recipe, package)
    new = [line for block in recipe.blocks for line in block.text.splitlines()
           if line.strip("+ ") and (line.startswith("+") or block.language == "python")]  # fmt: skip
    assert len(new) < 15, len(new)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=title)
def test_the_commands_of_a_recipe_use_what_it_adds(recipe: Page, package: Path, launcher: Any) -> None:
    make(recipe, package)
    for words in (words for block in recipe.blocks if block.language == "sh" for words in commands(block.text)):
        # Python looks for the package in the working directory first.
        command = [sys.executable, "-m", "raygen", *words[1:], *SMALL.get(words[1], ())]
        done = launcher.run("env", "-C", package, *command)
        assert done.returncode == 0, done.stderr
    if title(recipe) == "A reference":
        # What is asked for by a new name must not be what was there before: neighbouring pixels are alike.
        run = Run.open(str(package / "added/reference"))
        pictures = [row["bytes"] for unit in run.plan for row in run.samples(unit)["image"].to_pylist()]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)), dtype=float) for data in pictures])
        pixels -= pixels.mean((1, 2), keepdims=True)
        assert (pixels[:, :, 1:] * pixels[:, :, :-1]).mean() > 0.3 * pixels.var()
    if "gallery" in title(recipe):
        assert "ESS of the tails" in (package / "added/fact/gallery/conv1/0.html").read_text()
        assert '"ess_tail": ' in (package / "added/fact/gallery/gallery.json").read_text()
