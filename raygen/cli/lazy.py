"""A group of commands that imports a command when it is asked for: the overview and the version cost no imports."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from raygen.errors import closest


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is defined.

    Attributes:
        module: dotted name of the module.
        name: of the command in the module.
        help: the first line of the command's help.
    """

    module: str
    name: str
    help: str

    def load(self) -> click.Command:
        """Import the command."""
        command = getattr(importlib.import_module(self.module), self.name)
        assert isinstance(command, click.Command)
        return command


class LazyGroup(click.Group):
    """A group whose commands are listed in sections.

    Args:
        sections: the commands by name, by the title of their section.
    """

    def __init__(self, *, sections: Mapping[str, Mapping[str, LazyCommand]], **attributes: Any) -> None:
        super().__init__(**attributes)
        self.sections = sections

    @property
    def lazy_commands(self) -> dict[str, LazyCommand]:
        """All commands by name, in the order of the overview."""
        return {name: command for section in self.sections.values() for name, command in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the overview."""
        return list(self.lazy_commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of a name; return None if there is none."""
        found = self.lazy_commands.get(cmd_name)
        return None if found is None else found.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments begin with.

        Raises:
            click.UsageError: there is none of this name.
        """
        name = args[0]
        if name not in self.lazy_commands and not name.startswith("-"):
            ctx.fail(f"No such command {name!r}, {closest(name, self.lazy_commands, limit=2)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview: a line for each command, in sections."""
        width = max(map(len, self.lazy_commands))
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), command.help) for name, command in commands.items()])
