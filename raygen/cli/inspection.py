"""``raygen status`` and ``raygen verify``: a run looked at from another terminal, or afterwards."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from raygen import stages
from raygen.cli.display import Display
from raygen.cli.options import configured
from raygen.cli.standing import show_findings, show_status
from raygen.config import StatusConfig, VerifyConfig
from raygen.errors import SettingsError, UnfinishedError

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


def _placed(command: Callable[..., None]) -> Callable[..., None]:
    """Let the folder be given without ``--out``."""

    @functools.wraps(command)
    def run(place: str | None, **options: Any) -> None:
        if place is not None and options.get("out") not in (None, place):
            raise SettingsError(f"{place} and --out {options['out']}", where="options", right="give one of them")
        command(**(options | ({"out": place} if place is not None else {})))

    return click.argument("place", metavar="[RUN]", required=False)(run)


@click.command()
@_placed
@_json
@configured(StatusConfig)
def status(config: StatusConfig, *, as_json: bool) -> None:
    """Show how far a run or a training is.

    Works from any terminal, while the run goes on or afterwards: units done, in flight and set aside, rate and time
    left; epochs of a training.
    """
    for found in stages.status(config.out):
        if as_json:
            click.echo(json.dumps(found.document))
        else:
            show_status(Display(sys.stdout), found)


@click.command()
@click.option(
    "--mend", is_flag=True, help="Remove torn and unneeded files; the same command makes again what is needed."
)
@_placed
@_json
@configured(VerifyConfig)
def verify(config: VerifyConfig, *, as_json: bool, mend: bool) -> None:
    """Read every file of a run or a training again.

    Finds what is torn, missing, or does not belong there. Exit status 3 where something is torn or missing.
    """
    display = Display(sys.stdout)
    if not as_json:
        display.stage("verify")
    try:
        found = stages.verify(
            config.out, mend=mend,
            on_unit=None if as_json else lambda done, whole: display.update(f"{done:,} of {whole:,} units read"),
        )  # fmt: skip
    finally:
        display.close()
    for place, findings in found:
        if as_json:
            click.echo(json.dumps({"folder": place, "is_whole": findings.is_whole, "mended": mend, **asdict(findings)}))
        else:
            show_findings(display, place, findings, mended=mend)
    broken = [(place, findings) for place, findings in found if not findings.is_whole]
    if broken:
        place, findings = broken[0]
        right = (
            "run the same command again to make it" if mend or not findings.torn else "remove what is torn with --mend"
        )
        what = f"{len(findings.torn)} files torn, {findings.missing} missing"
        raise UnfinishedError(f"{place}: {what}; {right}")
