"""What each stage says: while it works, and when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raygen.cli.display import Display, duration, progress_line
from raygen.cli.tables import plan_table, totals_table
from raygen.storage import title_of
from raygen.store import seeks_modes
from raygen.text import for_shell

if TYPE_CHECKING:
    from raygen.gallery import GallerySummary
    from raygen.runs import FarmReport, PlanReport
    from raygen.stages import Sampled
    from raygen.tilting import Provenance


def show_farm(display: Display, report: FarmReport) -> None:
    """Show how far sampling is."""
    acceptance = "" if report.acceptance is None else f"acceptance {report.acceptance:.2f}"
    actors = "1 actor" if report.actors == 1 else f"{report.actors} actors"
    actors += f" ({report.pending} of them waiting for a machine or starting)" if report.pending else ""
    aside = f"{report.lost} set aside" if report.lost else ""
    display.update(
        progress_line(
            report.fraction, report.seconds_left, f"{report.done} of {report.units} units", actors, aside, acceptance
        )
    )


def show_reference(display: Display, file: str, provenance: Provenance, shape: tuple[int, int, int]) -> None:
    """Show what a reference was fitted to, and how to use it."""
    what = "images" if shape == provenance.shape else "patches of images"
    display.say(
        f"reference: {'x'.join(map(str, shape))}, fitted to {provenance.images:,} {what} of {provenance.data_set}"
    )
    display.say(f"file: {file} (use it with raygen sample --reference-file {for_shell(file)})")


def show_samples(display: Display, sampled: Sampled) -> None:
    """Show what sampling made since this start, and what there is in all."""
    report, modes = sampled.report, seeks_modes(sampled.run.request)
    made, stage = report.made, "look" if modes else "sample"
    if report.before:
        display.say(f"{stage}: {report.before} of {report.units} units were there already")
    if made.units:
        what, which = ("modes", "modes are no samples") if modes else ("samples", f"{made.converged} nodes converged")
        display.say(
            f"{stage}: {made.samples:,} {what} of {made.nodes} nodes in {duration(report.seconds)}, "
            f"{made.gradients:,} gradients, {which}"
        )
        if made.dead:
            display.say(f"{stage}: {made.dead} of these nodes are constant or dead; they are marked, and not sampled")
    if made.units and not modes:
        display.table(totals_table(report.layers))
        if (left := made.nodes - made.dead - made.converged) > 0:
            display.say(
                f"not converged: {left} of {made.nodes} nodes, marked in the pages; a lower --contrast, another "
                "--reference or more --draws may help (raygen help chains-and-convergence)"
            )
    if taken := _in_short(sampled.run.request["request"]):
        display.say(f"settings: {taken}; all are in run.json")
    display.say(f"run: {sampled.run.location.title}")


def _in_short(request: Mapping[str, Any]) -> str:
    """Return what decides most how samples look and how long they take, by the names of the options."""
    settings = request.get("settings", {})
    drawing = () if settings.get("mode_steps") is not None else ("views", "warm_up", "draws", "thin", "budget")
    names = ("tilt", "contrast", "mode_steps", "chains", *drawing)
    found = {name: settings[name] for name in names if settings.get(name) is not None}
    if "tilt" in found:  # which goes before
        found.pop("contrast", None)
    size = [f"input {'x'.join(map(str, request['input_shape'][1:]))}"] if "input_shape" in request else []
    return ", ".join([*size, *(f"{name.replace('_', '-')} {value:g}" for name, value in found.items())])


def show_gallery(display: Display, summary: GallerySummary) -> None:
    """Show what the gallery holds, and how to open it."""
    display.say(
        f"gallery: {summary.samples:,} pictures of {summary.nodes} nodes "
        f"in {summary.layers} layer{'' if summary.layers == 1 else 's'}"
    )
    for kind, names in (("not done yet", summary.missing), ("torn", summary.torn)):
        if names:
            display.say(f"gallery: {len(names)} {kind}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
    local = "://" not in summary.index
    display.say(f"open {Path(summary.index).absolute().as_uri() if local else title_of(summary.index)}")


def show_plan(display: Display, report: PlanReport, *, actors: int, threads: int, gpus: float) -> None:
    """Show what a run will cost."""
    display.table(plan_table([*report.layers, report.total] if len(report.layers) > 1 else report.layers))
    total = report.total
    most = "at most " if report.has_budget else ""
    hours = (
        f"{total.seconds * gpus / 3600:.3g} GPU-hours" if gpus else f"{total.seconds * threads / 3600:.3g} core-hours"
    )
    who = "1 actor" if actors == 1 else f"{actors} actors"
    display.say(f"time: {most}{duration(report.wall_seconds(actors))} on {who}, {hours}")
    if report.done:
        display.say(f"done: {report.done:,} of {total.units:,} units already; the figures are those of all")
    cores = f", {report.threads} thread{'' if report.threads == 1 else 's'}" if report.device == "cpu" else ""
    display.say(f"measured: a second or two for each layer on this machine ({report.device}{cores})")
    if report.has_log_z:
        display.say("log Z is not in the figures: its cost is known only while it runs")
    display.say(f"plan: {report.run.location.title}")


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
