"""What a person reads of a run that is looked at: how far it is, what is wrong with its files, what it will cost."""

from __future__ import annotations

import time
from collections.abc import Iterable

from raygen.cli.display import Display, duration
from raygen.cli.tables import table
from raygen.runs import LayerCost, PlanReport, RunStatus, TrainingStatus
from raygen.store import Findings, Holder

_NAMED = 10
"""Files, units or reasons that are named, at most."""


def show_status(display: Display, status: RunStatus | TrainingStatus) -> None:
    """Tell how far a run or a training is."""
    if isinstance(status, TrainingStatus):
        _show_training(display, status)
    else:
        _show_run(display, status)


def _show_run(display: Display, status: RunStatus) -> None:
    told = status.told
    share = 100 * status.done / max(status.units, 1)
    display.say(f"done: {status.done:,} of {status.units:,} units ({share:.0f} %)")
    if status.alive and told:
        shown = ", ".join(f"{100 * fraction:.0f} %" for fraction in told.get("running", ())[:_NAMED])
        more = " ..." if told.get("in_flight", 0) > _NAMED else ""
        pending = f", {told['pending']} of them waiting or starting" if told.get("pending") else ""
        display.say(f"running: {told.get('in_flight', 0)} units{f' ({shown}{more})' if shown else ''}")
        display.say(f"actors: {told.get('actors', 0)}{pending}")
    _show_lost(display, status)
    seconds = told.get("seconds") or 0.0
    if seconds and told.get("samples"):
        rate = (told["done"] - told["before"]) / seconds
        display.say(
            f"rate: {60 * rate:.3g} units a minute, {told['samples'] / seconds:.3g} samples/s, "
            f"{told['gradients'] / seconds:.3g} gradients/s; {told['converged']} of {told['nodes']} nodes converged"
        )
    if status.seconds_left is not None and status.done < status.units:
        display.say(f"left: {duration(status.seconds_left)}")
    _show_driver(display, status.holder, alive=status.alive, age=status.age, complete=status.done >= status.units)


def _show_lost(display: Display, status: RunStatus) -> None:
    aside = status.told.get("set_aside") or {}
    # What was set aside may have been made by a later start.
    if aside and (status.alive or status.done < status.units):
        display.say(f"set aside: {status.told.get('lost', len(aside))} units")
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
    told = "" if age is None else f", last heard of {duration(age)} ago"
    if alive and holder is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
        display.say(f"driver: {holder}, since {since}{told}")
    elif complete:
        display.say("driver: none is needed any more")
    elif holder is not None:
        display.say(f"driver: dead ({holder}){told}; the same command goes on from here")
    else:
        display.say(f"driver: none{told}; the same command goes on from here")


def show_findings(display: Display, place: str, findings: Findings, *, mended: bool) -> None:
    """Tell what is wrong in a folder, and what was done about it."""
    state = "whole" if findings.is_whole else "not whole"
    display.say(f"{place}: {state}; {findings.whole:,} files as they should be")
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


def show_plan(display: Display, report: PlanReport, *, actors: int, threads: int, gpus: float) -> None:
    """Tell what a run will cost."""
    display.say(plan_table([*report.layers, report.total] if len(report.layers) > 1 else report.layers))
    total = report.total
    most = "at most " if report.has_budget else ""
    hours = (
        f"{total.seconds * gpus / 3600:.3g} GPU-hours" if gpus else f"{total.seconds * threads / 3600:.3g} core-hours"
    )
    who = "1 actor" if actors == 1 else f"{actors} actors"
    display.say(f"time: {most}{duration(report.wall_seconds(actors))} on {who}, {hours}")
    if report.done:
        display.say(f"done: {report.done:,} of {total.units:,} units already; the figures are those of all")
    cores = f", {report.threads} threads" if report.device == "cpu" else ""
    display.say(f"measured: a second or two for each layer on this machine ({report.device}{cores})")
    if report.has_log_z:
        display.say("log Z is not in the figures: what it costs shows only on the way")
    display.say(f"plan: {report.run.location.title}")


def plan_table(costs: Iterable[LayerCost]) -> str:
    """Return what each layer costs."""
    header = ("layer", "units", "nodes", "chains", "gradients", "at most", "memory", "actor time", "a unit")
    return table(
        header,
        [
            (
                cost.layer,
                f"{cost.units:,}",
                f"{cost.nodes:,}",
                f"{cost.chains:,}",
                f"{cost.gradients:,}",
                f"{cost.most_gradients:,}",
                "-" if cost.memory is None else f"{cost.memory / 1e6:,.0f} MB",
                duration(cost.seconds),
                duration(cost.unit_seconds),
            )
            for cost in costs
        ],
    )


def plan_lines(report: PlanReport, *, actors: int, threads: int, gpus: float) -> list[dict[str, object]]:
    """Return the layers, then all of them, as plain values."""
    total = report.total
    names = ("layer", "units", "nodes", "chains", "gradients", "most_gradients", "seconds", "unit_seconds", "memory")
    lines: list[dict[str, object]] = [
        {name: getattr(cost, name) for name in names} | {"steps": cost.steps, "measured": cost.measured}
        for cost in report.layers
    ]
    whole: dict[str, object] = {name: getattr(total, name) for name in names}
    whole |= {
        "actors": actors,
        "wall_seconds": report.wall_seconds(actors),
        "core_hours": total.seconds * threads / 3600,
        "gpu_hours": total.seconds * gpus / 3600,
        "device": report.device,
        "done": report.done,
    }
    return [*lines, whole]
