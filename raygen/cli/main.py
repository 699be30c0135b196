"""The commands' names, and what an error looks like."""

from __future__ import annotations

import io
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import click

from raygen.cli.lazy import LazyCommand, LazyGroup
from raygen.errors import RaygenError
from raygen.text import for_terminal

_STOPPED = "raygen: stopped; what is finished is kept, and the same command continues from there"

_WORK, _INSPECTION = "raygen.cli.commands", "raygen.cli.inspection"

_SECTIONS = {
    "All in one": {
        "demo": LazyCommand(_WORK, "demo", "Try everything on bundled digits."),
        "pipeline": LazyCommand(_WORK, "pipeline", "Pretrain, sample and make a gallery in one go."),
    },
    "Step by step": {
        "pretrain": LazyCommand(_WORK, "pretrain", "Train a network generatively, then refine it."),
        "nodes": LazyCommand(_WORK, "nodes", "List the layers whose nodes can be sampled."),
        "reference": LazyCommand(_WORK, "reference", "Fit a reference to images and save it."),
        "tune": LazyCommand(_WORK, "tune", "Search a layer's tilt and step size."),
        "look": LazyCommand(_WORK, "look", "Show at once what nodes respond to."),
        "sample": LazyCommand(_WORK, "sample", "Draw samples of nodes."),
        "gallery": LazyCommand(_WORK, "gallery", "Make the pages and pictures of a run."),
    },
    "Look at a run": {
        "status": LazyCommand(_INSPECTION, "status", "Show how far a run or a training is."),
        "verify": LazyCommand(_INSPECTION, "verify", "Read every file of a run or a training again."),
    },
    "More": {
        "help": LazyCommand("raygen.cli.manual", "manual", "Show a page of the manual, or list its pages."),
        "bench": LazyCommand(
            "raygen.cli.bench",
            "bench",
            "Measure speed or legibility: two things in one run.",
        ),
    },
}


@click.group(
    cls=LazyGroup,
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="raygen", prog_name="raygen")
def cli() -> None:
    """Draw image samples from any node of any convolutional network, and pretrain such networks generatively.

    Start with raygen demo. raygen COMMAND --help shows the options of a command, raygen help the manual.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    0 done; 2 something given is wrong, said in one line; 3 finished in part; 130 and 143 stopped by a signal.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        with _fit_for_terminals():
            return _run(arguments)
    finally:
        if signal.getsignal(signal.SIGALRM) is _insist:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, before)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="raygen", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)  # noqa: T201
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "raygen"
        message = for_terminal(" ".join(error.format_message().split())).rstrip(".?")
        print(f"{path}: {message}; see {path} --help", file=sys.stderr)  # noqa: T201
        return 2
    except RaygenError as error:
        print(f"raygen: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    except (OSError, UnicodeError) as error:
        return _refused_by_the_system(error)
    except (KeyboardInterrupt, click.Abort, _Terminated) as error:
        print(_STOPPED, file=sys.stderr)  # noqa: T201
        return 143 if isinstance(error, _Terminated) else 130
    return 0


def _refused_by_the_system(error: OSError | UnicodeError) -> int:
    """Say what the system said of a path that no check before knew to be impossible, such as one that is too long."""
    if isinstance(error, BrokenPipeError):  # whoever read the output has enough
        return 0
    name = str(getattr(error, "filename", None) or "a path")
    said = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    line = f"{name[:200]}: {' '.join(said.split())[:400]}; see that it can be used on this machine"
    print(f"raygen: {for_terminal(line)}", file=sys.stderr)  # noqa: T201
    return 2


@contextmanager
def _fit_for_terminals() -> Iterator[None]:
    """Show raygen's warnings, and characters that the output's encoding lacks, as a terminal can show them."""
    last, stream = logging.lastResort, sys.stdout
    assert last is not None
    formatter, errors = last.formatter, stream.errors
    last.setFormatter(_OneLine())
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        last.setFormatter(formatter)
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.reconfigure(errors=errors)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return for_terminal(text) if record.name.startswith("raygen") else text


class _Terminated(BaseException):
    pass


_AGAIN = 1.0
"""Seconds after which a request to stop that a library has swallowed, as imports do, is raised once more."""


def _terminate(number: int, frame: FrameType | None) -> None:
    if signal.getsignal(signal.SIGALRM) is _insist:
        return  # a second one, as GNU timeout sends it, must not interrupt what the first one lets be saved
    signal.signal(signal.SIGALRM, _insist)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN, _AGAIN)
    raise _Terminated


def _insist(number: int, frame: FrameType | None) -> None:
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, _Terminated):  # whoever cleans up because of it is left alone
            return
        error = error.__context__
    raise _Terminated
