"""``raygen help``: the pages of the manual, which are Markdown files of the package."""

from __future__ import annotations

import io
import re
import shutil
import sys
from importlib.resources import files
from importlib.resources.abc import Traversable

import click

from raygen.errors import InputError, closest

_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)

_WIDTH = 100
"""Columns of a rendered page, at most."""


@click.command(name="help")
@click.argument("topic", required=False)
@click.pass_context
def manual(context: click.Context, topic: str | None) -> None:
    """Show a page of the manual, or list its pages."""
    pages = manual_pages()
    if topic is None:
        formatter = context.make_formatter()
        with formatter.section("Topics"):
            formatter.write_dl([(name, _title(page)) for name, page in pages.items()])
        click.echo(formatter.getvalue())
        click.echo("raygen help TOPIC shows a page, raygen COMMAND --help the options of a command.")
    elif topic in pages:
        show_page(pages[topic].read_text(encoding="utf-8"))
    else:
        _show_command(context, topic, list(pages))


def manual_pages() -> dict[str, Traversable]:
    """Return the files of the manual by topic, in alphabetical order."""
    found = [entry for entry in (files("raygen") / "manual").iterdir() if entry.name.endswith(".md")]
    return {page.name.removesuffix(".md"): page for page in sorted(found, key=lambda entry: entry.name)}


def show_page(text: str) -> None:
    """Show Markdown: rendered and in a pager on a terminal, otherwise as it is written, without comments."""
    # They say how the tests run an example.
    text = _COMMENT.sub("", text)
    if not sys.stdout.isatty():
        click.echo(text.rstrip())
        return
    from rich.console import Console  # noqa: PLC0415  (a tenth of a second to import, for a terminal only)
    from rich.markdown import Markdown  # noqa: PLC0415

    width = min(_WIDTH, shutil.get_terminal_size().columns)
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    with console.capture() as capture:
        console.print(Markdown(text))
    click.echo_via_pager(capture.get(), color=True)


def _title(page: Traversable) -> str:
    with page.open(encoding="utf-8") as lines:
        return next((line.lstrip("# ").strip() for line in lines if line.strip()), "")


def _show_command(context: click.Context, name: str, topics: list[str]) -> None:
    """Show the options of a command whose name was given as a topic."""
    group = context.find_root().command
    command = group.get_command(context.find_root(), name) if isinstance(group, click.Group) else None
    if command is None:
        raise InputError(f"unknown topic {name!r}", where="raygen help", right=closest(name, topics))
    with click.Context(command, info_name=name, parent=context.find_root()) as inner:
        click.echo(command.get_help(inner))
