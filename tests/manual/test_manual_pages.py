"""What the README and the manual say is there: pages, links, options, rooms, the picture; and it is said once."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from manual_pages import MANUAL, ROOT, Page, all_pages, commands, manual_pages, options, read_page
from PIL import Image

from raygen.cli import main

README = read_page(ROOT / "README.md")
PICTURE = MANUAL / "samples.png"
PLACEHOLDERS = {"COMMAND", "NAME", "TOPIC"}

_COMMAND = r"raygen (?P<command>[a-zA-Z]+)(?: (?P<part>farm|kernels|legibility|nodes|sampler|table1|training)\b)?"
# A command is named at the beginning of a piece of code, or behind && in a line.
_MENTION = re.compile(rf"(?:(?<=`)|^|(?<=/)){_COMMAND}|(?<=jobs/)(?P<job>\w+)\.py|(?<![\w-])--[a-z]", re.MULTILINE)
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_ROW = re.compile(r"^\| (`(?:raygen \w+ )?--[^|]*)\|", re.MULTILINE)


@pytest.fixture
def helps(capsys: pytest.CaptureFixture[str]):
    """Return the options of a command, by name without the dashes, as its help lists them."""

    @cache
    def of(*command: str) -> frozenset[str]:
        capsys.readouterr()
        assert main([*command, "--help"]) == 0, command
        lines = re.findall(r"^ +(?:-\w, )?(--.*)$", capsys.readouterr().out, re.MULTILINE)
        # Two spaces or more are between an option and its text.
        return frozenset(name for line in lines for name in options(line.split("  ")[0]))

    return of


@pytest.fixture
def every_command(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("-h, --help")[2]
    return re.findall(r"^  ([a-z]\w*)  ", listed, re.MULTILINE)


@pytest.mark.parametrize("page", manual_pages(), ids=lambda page: page.name)
def test_a_page_opens_with_a_title_and_one_sentence(page: Page) -> None:
    title, empty, sentence, after = page.text.split("\n")[:4]
    assert re.fullmatch(r"# [A-Z][^#]*", title)
    assert (empty, after) == ("", "")
    assert sentence.endswith(".") and ". " not in sentence
    assert len(title) <= 54, "raygen help lists it in one line"


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_each_link_leads_to_a_file_that_is_there(page: Page) -> None:
    targets = [target for target in _LINK.findall(page.text) if "://" not in target]
    missing = [target for target in targets if not ((ROOT / page.name).parent / target.partition("#")[0]).is_file()]
    assert missing == []


def test_the_readme_links_to_each_page_of_the_manual() -> None:
    assert {f"raygen/manual/{path.name}" for path in MANUAL.glob("*.md")} <= set(_LINK.findall(README.text))


def mentions(page: Page) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each option in a page with the command last named before it."""
    command: tuple[str, ...] = ()
    text = re.sub(r"<!--.*?-->", "", page.text, flags=re.DOTALL)
    text = re.sub(r"^```(?:text|diff|yaml|python)\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    # Options of other programs.
    text = re.sub(r"ray job submit .*? -- ", "", text)
    for found in _MENTION.finditer(text):
        if found[0].startswith("--"):
            yield command, options(text[found.start() :].split("`")[0].split()[0])[0]
        else:
            command = tuple(part for part in found.groups() if part)


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_each_option_in_a_page_is_one_of_the_command_that_is_named_before_it(page: Page, helps, every_command) -> None:
    wrong = []
    for command, option in mentions(page):
        known = set(every_command) if not command or command[0] in PLACEHOLDERS else {command[0]}
        assert known <= set(every_command), f"{page.name}: raygen {' '.join(command)}"
        if command[:1] == ("bench",) and len(command) > 1:
            found = helps(*command)
        else:
            found = frozenset().union(*(helps(name) for name in known))
        if option not in found and option not in {"help", "version"}:
            wrong.append((" ".join(command), option))
    assert wrong == []


def test_each_setting_of_a_command_is_explained_in_one_place_of_the_manual(helps, every_command) -> None:
    rows = [row for page in manual_pages() for row in _ROW.findall(page.text)]
    explained = Counter(option for row in rows for option in options(row))
    there = frozenset().union(*(helps(name) for name in every_command if name != "bench")) - {"help"}
    assert [option for option, count in explained.items() if count > 1] == []
    assert explained.keys() == there


def test_the_first_page_names_each_command(every_command) -> None:
    named = re.findall(r"^\| `raygen (\w+)` \|", (MANUAL / "commands.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(every_command)


def test_the_readme_has_at_most_1100_words() -> None:
    assert len(README.text.split()) <= 1100


def test_the_readme_shows_a_small_legible_picture_of_samples() -> None:
    assert f"]({PICTURE.relative_to(ROOT)})" in README.text.split("## ")[0]
    assert PICTURE.stat().st_size < 300_000
    with Image.open(PICTURE) as picture:
        assert min(picture.size) >= 400


def test_the_readme_is_short_where_it_shows_output_python_and_shell() -> None:
    lines = {block.language: len(block.text.splitlines()) for block in README.blocks if "venv" not in block.text}
    assert lines == {"text": 10, "python": 10, "sh": 5}


def test_the_readme_has_one_demo_command_and_one_test_command() -> None:
    for name in ("demo", "test"):
        (shown,) = re.findall(rf"^<!-- {name} command -->\n```sh\n(.*?)^```$", README.text, re.MULTILINE | re.DOTALL)
        assert shown.startswith("python3 -m venv .venv && .venv/bin/pip install -e "), shown
        assert len(list(commands(shown))) == 3


def test_the_tree_of_the_readme_is_that_of_the_package() -> None:
    tree = README.text.partition("## Architecture")[2].partition("Imports point")[0]
    drawn = re.findall(r"^      ([\w.]+/?)  ", tree, re.MULTILINE)
    package = ROOT / "raygen"
    rooms = {f"{path.name}/" for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert sorted(drawn) == sorted(rooms | modules)


def test_the_import_order_of_the_readme_is_that_of_the_linter() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [layer.replace("raygen.", "") for layer in contract["layers"] if layer != "raygen.__main__"]
    block = re.search(r"^    jobs > .*?\n\n", README.text, re.MULTILINE | re.DOTALL)
    assert block is not None
    assert [layer.strip() for layer in " ".join(block[0].split()).split(" > ")] == layers


def test_no_page_uses_words_that_a_reader_in_a_hurry_must_look_up() -> None:
    hard = r"so-manieth|to be gone on with|\b(?:told of|tells of|reckon\w*|in hand|give[ns]? back|bears?|lest|albeit)\b"
    found = {page.name: re.findall(hard, page.prose) for page in all_pages()}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_files_that_a_job_names_in_its_comments_are_there(path: Path) -> None:
    comments = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert [name for name in re.findall(r"jobs/\w+\.\w+", comments) if not (ROOT / name).is_file()] == []
    assert "`" not in comments, "a command in a comment is to be run by a test"
