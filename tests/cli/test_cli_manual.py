"""``raygen help``: the list of topics, each page, and what is no topic."""

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raygen.cli.main import cli
from raygen.cli.manual import manual_pages

Call = Callable[..., Any]
TOPICS = sorted(manual_pages())


def test_help_lists_every_topic_with_the_first_line_of_its_page(call: Call) -> None:
    said = call("help")
    assert (said.status, said.err) == (0, "")
    for topic, page in manual_pages().items():
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert re.search(rf"^  {topic} +{re.escape(title)}$", said.out, re.MULTILINE)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_is_printed_as_it_is_written_but_for_comments_where_no_terminal_is(topic: str, call: Call) -> None:
    said = call("help", topic)
    assert (said.status, said.err) == (0, "")
    written = manual_pages()[topic].read_text(encoding="utf-8")
    assert said.out.rstrip() == re.sub(r"^<!-- test:[^>]*(?:=> [^>]*)*-->\n", "", written, flags=re.MULTILINE).rstrip()
    assert "<!--" not in said.out


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_begins_with_its_title(topic: str) -> None:
    lines = manual_pages()[topic].read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ") and len(lines[0]) < 100


def test_a_page_is_rendered_and_goes_through_a_pager_on_a_terminal() -> None:
    reader, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "raygen", "help", "commands"],
        stdin=terminal, stdout=terminal, stderr=terminal, env=os.environ | {"PAGER": "sed s/^/|/", "TERM": "xterm"},
    )  # fmt: skip
    os.close(terminal)
    said = b""
    # The end of a terminal that nobody writes to any more is an error on Linux.
    try:
        while block := os.read(reader, 65536):
            said += block
    except OSError:
        pass
    assert process.wait(timeout=60) == 0
    os.close(reader)
    text = said.decode()
    assert "Exit status" in text and "## Exit status" not in text
    assert all(line.startswith("|") for line in text.splitlines() if line)


def test_an_unknown_topic_is_refused_in_one_line_with_the_closest(call: Call) -> None:
    said = call("help", "comands")
    assert (said.status, said.out) == (2, "")
    assert re.fullmatch(r"raygen: raygen help: unknown topic 'comands'; did you mean commands.*\?\n", said.err)


def test_the_name_of_a_command_that_is_no_topic_shows_its_options(call: Call) -> None:
    assert "verify" not in TOPICS
    assert call("help", "verify").out == call("verify", "--help").out


def test_the_example_of_the_page_on_commands_works(call: Call) -> None:
    page = manual_pages()["commands"].read_text(encoding="utf-8")
    settings, command = re.findall(r"```(?:yaml|sh)\n((?:# sample.yaml|raygen sample --config).*?)```", page, re.DOTALL)
    Path("sample.yaml").write_text(settings)
    said = call(*shlex.split(command)[1:], "--thin", "1", "--steps", "1")
    assert (said.status, said.err) == (0, "")
    assert Path("samples/run.json").exists()


def test_the_pages_that_the_commands_help_points_to_are_there() -> None:
    epilogs = [epilog for lazy in cli.lazy_commands.values() if (epilog := lazy.load().epilog)]
    assert len(epilogs) >= 10
    for epilog in epilogs:
        assert set(epilog.removeprefix("Manual: raygen help ").split()) <= set(TOPICS), epilog
