"""Command-line options made from a configuration's fields: one name, one description, one default for both."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic.fields import FieldInfo

from raygen.config import load_config
from raygen.documents import parse_yaml
from raygen.errors import SettingsError
from raygen.settings import Group, Settings

Config = TypeVar("Config", bound=Settings)


_NO_BREAK = "\N{NO-BREAK SPACE}"


class SettingOption(click.Option):
    """An option that sets a field of a configuration.

    Args:
        group: the heading that it is shown under.
    """

    def __init__(self, *declarations: Any, group: Group, **attributes: Any) -> None:
        super().__init__(*declarations, **attributes)
        self.group = group


class SettingsCommand(click.Command):
    """A command whose ``--help`` shows its options in the groups of its settings.

    Options that are no settings, such as ``--json``, follow the main ones.
    """

    def get_help(self, ctx: click.Context) -> str:
        """Return the text of ``--help``."""
        return super().get_help(ctx).replace(_NO_BREAK, " ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section for each group."""
        sections: dict[Group, list[tuple[str, str]]] = {group: [] for group in Group}
        others = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, SettingOption):
                sections[parameter.group].append(record)
            elif record is not None and isinstance(parameter, click.Option):
                others.append(record)
        sections[Group.MAIN] += others
        shown = {group: records for group, records in sections.items() if records}
        for group, records in shown.items():
            with formatter.section(group.value if len(shown) > 1 else "Options"):
                formatter.write_dl(records)


def configured(kind: type[Config]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of ``kind`` and ``--config FILE``, and call it with the configuration.

    An option that is not given leaves the file's value, or else the default, in force.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(config_file: str | None, **options: Any) -> None:
            fields = kind.model_fields
            given = {name: options.pop(name) for name in fields}
            plain = {name: _plain(fields[name], value) for name, value in given.items() if value is not None}
            command(load_config(kind, config_file, plain), **options)

        wrapped: Callable[..., None] = click.option(
            "--config", "config_file", metavar="FILE", help="YAML file of these settings; options override it"
        )(run)
        # click lists options in the reverse order of their decorators.
        for name, group in reversed(kind.groups().items()):
            wrapped = _option(name, kind.model_fields[name], group)(wrapped)
        return wrapped

    return decorate


def with_folder(command: Callable[..., None]) -> Callable[..., None]:
    """Let the folder be given without ``--out``, as the argument RUN."""

    @functools.wraps(command)
    def run(folder: str | None, **options: Any) -> None:
        if folder is not None and options.get("out") not in (None, folder):
            raise SettingsError(f"{folder} and --out {options['out']}", where="options", right="give one of them")
        command(**(options | ({"out": folder} if folder is not None else {})))

    return click.argument("folder", metavar="[RUN]", required=False)(run)


def _option(name: str, field: FieldInfo, group: Group) -> Callable[..., Any]:
    flag = "--" + name.replace("_", "-")
    # A line does not end within the brackets.
    text = f"{field.description}  [{_default(field).replace(' ', _NO_BREAK)}]"
    if bool in _kinds(field):
        return click.option(f"{flag}/--no-{flag[2:]}", name, cls=SettingOption, group=group, default=None, help=text)
    return click.option(flag, name, cls=SettingOption, group=group, metavar=_metavar(field), help=text)


def _plain(field: FieldInfo, value: Any) -> Any:
    """Return an option's text as the plain value that YAML makes of it; where text is asked for it stays text."""
    if not isinstance(value, str) or _takes_text(field):
        return value
    if _takes_list(field) and not value.lstrip().startswith("["):
        value = f"[{value}]"
    try:
        return parse_yaml(value)
    except ValueError:
        return value  # the validation names the option


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "not set"
    if isinstance(value, tuple):
        return "default: " + ",".join(str(item) for item in value)
    if isinstance(value, bool):
        return "default: " + ("on" if value else "off")
    return f"default: {value}" if value != {} else "default: none"


def _metavar(field: FieldInfo) -> str:
    kinds = _kinds(field)
    literals = [kind for kind in kinds if typing.get_origin(kind) is typing.Literal]
    choices = [str(choice) for kind in literals for choice in typing.get_args(kind)]
    if choices:
        return "|".join(choices)
    if _takes_list(field):
        return "A,B,..."
    names = {int: "INTEGER", float: "NUMBER", str: "TEXT"}
    return next((name for kind, name in names.items() if kind in kinds), "YAML")


def _takes_text(field: FieldInfo) -> bool:
    return any(kind is str or typing.get_origin(kind) is typing.Literal for kind in _kinds(field))


def _takes_list(field: FieldInfo) -> bool:
    return any(typing.get_origin(kind) is tuple for kind in _kinds(field))


def _kinds(field: FieldInfo) -> list[Any]:
    """Return the members of the field's type: itself, or those of a union, without their validation."""
    annotation = field.annotation
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    return [typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind for kind in members]


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in {typing.Union, types.UnionType}
