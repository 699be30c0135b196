"""The commands' names, and what an error looks like."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click

import raygen
from raygen.cli import commands
from raygen.cli.bench import bench
from raygen.cli.inspect import status, verify
from raygen.errors import RaygenError

_STOPPED = "raygen: stopped; what is finished is kept, and the same command goes on from there"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(raygen.__version__, prog_name="raygen")
def cli() -> None:
    """Draw image samples from any node of any convolutional network, and pretrain such networks generatively."""


for _command in (
    commands.demo,
    commands.pipeline,
    commands.pretrain,
    commands.nodes,
    commands.reference,
    commands.tune,
    commands.sample,
    commands.gallery,
    status,
    verify,
    bench,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    0 done; 2 something given is wrong, told in one line; 3 finished in part; 130 and 143 stopped by a signal.
    """
    # A user's own "package.module:factory" is found from where the command is given, as with python -m.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="raygen", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)  # noqa: T201
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "raygen"
        message = " ".join(error.format_message().split()).rstrip(".")
        print(f"{path}: {message}; see {path} --help", file=sys.stderr)  # noqa: T201
        return 2
    except RaygenError as error:
        print(f"raygen: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    except (KeyboardInterrupt, click.Abort):
        print(_STOPPED, file=sys.stderr)  # noqa: T201
        return 130
    except _Terminated:
        print(_STOPPED, file=sys.stderr)  # noqa: T201
        return 143
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


class _Terminated(BaseException):
    pass


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated
