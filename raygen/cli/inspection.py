"""``raygen status`` and ``raygen verify``: a run looked at from another terminal, or afterwards."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from raygen import runs, stages
from raygen.cli.display import Display, duration
from raygen.cli.options import SettingsCommand, configured, with_folder
from raygen.config import StatusConfig, VerifyConfig
from raygen.errors import UnfinishedError

if TYPE_CHECKING:
    from raygen.runs import RunStatus, TrainingStatus
    from raygen.store import Findings, Holder

_NAMED = 10
"""Files, units or reasons that are named, at most."""

_json = click.option("--json", "as_json", is_flag=True, help="print one JSON object a line")


@click.command(cls=SettingsCommand, epilog="Manual: raygen help storage")
@with_folder
@_json
@configured(StatusConfig)
def status(config: StatusConfig, *, as_json: bool) -> None:
    """Show how far a run or a training is.

    RUN is its folder or URI, as --out. Works from any terminal, during the run or afterwards. Shows the units that are
    done, in flight and set aside, the rate and the time left; of a training the epochs.
    """
    for found in stages.status(config.out):
        if as_json:
            click.echo(json.dumps(found.document))
        else:
            show_status(Display(sys.stdout), found)


@click.command(cls=SettingsCommand, epilog="Manual: raygen help storage")
@click.option(
    "--mend", is_flag=True, help="remove torn and unneeded files; the same command then makes again what is needed"
)
@with_folder
@_json
@configured(VerifyConfig)
def verify(config: VerifyConfig, *, as_json: bool, mend: bool) -> None:
    """Read every file of a run or a training again.

    RUN is its folder or URI, as --out. Finds what is torn (damaged), what is missing, and what does not belong there.
    The exit status is 3 if something is torn or missing.
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
    for folder, findings in found:
        if as_json:
            document = {"folder": folder, "is_whole": findings.is_whole, "mended": mend, **asdict(findings)}
            click.echo(json.dumps(document))
        else:
            show_findings(display, folder, findings, mended=mend)
    broken = [(folder, findings) for folder, findings in found if not findings.is_whole]
    if broken:
        folder, findings = broken[0]
        right = (
            "run the same command again to make it" if mend or not findings.torn else "remove what is torn with --mend"
        )
        what = f"{len(findings.torn)} files torn, {findings.missing} missing"
        raise UnfinishedError(f"{folder}: {what}; {right}")


def show_status(display: Display, status: RunStatus | TrainingStatus) -> None:
    """Show how far a run or a training is."""
    if isinstance(status, runs.RunStatus):
        _show_run(display, status)
    else:
        _show_training(display, status)


def _show_run(display: Display, status: RunStatus) -> None:
    report = status.report
    share = 100 * status.done / max(status.units, 1)
    display.say(f"done: {status.done:,} of {status.units:,} units ({share:.0f} %)")
    if status.alive and report:
        shown = ", ".join(f"{100 * fraction:.0f} %" for fraction in report.get("running", ())[:_NAMED])
        more = " ..." if report.get("in_flight", 0) > _NAMED else ""
        pending = f", {report['pending']} of them waiting for a machine or starting" if report.get("pending") else ""
        display.say(f"running: {report.get('in_flight', 0)} units{f' ({shown}{more})' if shown else ''}")
        display.say(f"actors: {report.get('actors', 0)}{pending}")
    _show_lost(display, status)
    seconds = report.get("seconds") or 0.0
    if seconds and report.get("samples"):
        rate = (report.get("done", 0) - report.get("before", 0)) / seconds
        made = "modes" if status.seeks_modes else "samples"
        agree = (
            "" if status.seeks_modes else f"; {report.get('converged', 0)} of {report.get('nodes', 0)} nodes converged"
        )
        display.say(
            f"rate: {_number(60 * rate)} units a minute, {_number(report['samples'] / seconds)} {made}/s, "
            f"{_number(report.get('gradients', 0) / seconds)} gradients/s{agree}"
        )
    if status.seconds_left is not None and status.done < status.units:
        display.say(f"left: {duration(status.seconds_left)}")
    _show_driver(display, status.holder, alive=status.alive, age=status.age, complete=status.done >= status.units)


def _number(value: float) -> str:
    """Return a number with three digits, and without an exponent where it is large."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _show_lost(display: Display, status: RunStatus) -> None:
    aside = status.report.get("set_aside") or {}
    # What was set aside may have been made by a later start.
    if aside and (status.alive or status.done < status.units):
        display.say(f"set aside: {status.report.get('lost', len(aside))} units")
        for unit, reason in list(aside.items())[:_NAMED]:
            display.say(f"  {unit}: {reason}")


def _show_training(display: Display, status: TrainingStatus) -> None:
    display.say(f"done: {status.done} of {status.epochs} epochs{', finished' if status.finished else ''}")
    if (last := status.last) is not None:
        display.say(
            f"epoch {last.epoch}: {last.phase}, test error {100 * last.test.error:.2f} %, "
            f"{last.images_per_second:,.0f} images/s"
        )
    if status.seconds_left is not None:
        display.say(f"left: {duration(status.seconds_left)}")
    _show_driver(display, status.holder, alive=status.alive, age=None, complete=status.finished)


def _show_driver(display: Display, holder: Holder | None, *, alive: bool, age: float | None, complete: bool) -> None:
    heard = "" if age is None else f", last report {duration(age)} ago"
    if alive and holder is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
        display.say(f"driver: {holder}, since {since}{heard}")
    elif complete:
        display.say("driver: none; all is done")
    elif holder is not None:
        display.say(f"driver: dead ({holder}){heard}; the same command continues from here")
    else:
        display.say(f"driver: none{heard}; the same command continues from here")


def show_findings(display: Display, folder: str, findings: Findings, *, mended: bool) -> None:
    """Show what is wrong in a folder, and what was done about it."""
    state = "whole" if findings.is_whole else "not whole"
    display.say(f"{folder}: {state}; {findings.whole:,} files as they should be")
    _list(display, "torn", (f"{name}: {why}" for name, why in findings.torn.items()), len(findings.torn))
    _list(display, "missing", findings.first_missing, findings.missing)
    _list(display, "left by interrupted writes", findings.partial, len(findings.partial))
    unneeded = (f"{name}: {why}" for name, why in findings.unneeded.items())
    _list(display, "states that are not needed", unneeded, len(findings.unneeded))
    _list(display, "files of something else, left alone", findings.foreign, len(findings.foreign))
    if mended and findings.to_remove:
        display.say(f"removed: {len(findings.to_remove)} files")
    elif findings.to_remove:
        display.say("nothing is changed; --mend removes what is torn, interrupted or not needed")


def _list(display: Display, title: str, lines: Iterable[str], count: int) -> None:
    if count:
        display.say(f"{title}: {count:,}")
        for _, line in zip(range(_NAMED), lines, strict=False):
            display.say(f"  {line}")
        if count > _NAMED:
            display.say("  ...")
