"""What each stage says: while it works, and when it is done."""

from __future__ import annotations

from pathlib import Path

from raygen.cli.display import Display, duration, progress_line
from raygen.cli.tables import totals_table
from raygen.gallery import GallerySummary
from raygen.runs import FarmReport
from raygen.stages import Sampled
from raygen.tilting import Provenance


def show_farm(display: Display, report: FarmReport) -> None:
    """Tell how far sampling is."""
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
    """Tell what a reference was fitted to, and how to use it."""
    what = "images" if shape == provenance.shape else "patches of images"
    display.say(
        f"reference: {'x'.join(map(str, shape))}, fitted to {provenance.images:,} {what} of {provenance.data_set}"
    )
    display.say(f"file: {file} (use it with raygen sample --reference-file {file})")


def show_samples(display: Display, sampled: Sampled) -> None:
    """Tell what sampling made since this start, and what there is in all."""
    report = sampled.report
    made = report.made
    if report.before:
        display.say(f"sample: {report.before} of {report.units} units were there already")
    if made.units:
        display.say(
            f"sample: {made.samples:,} samples of {made.nodes} nodes in {duration(report.seconds)}, "
            f"{made.gradients:,} gradients, {made.converged} nodes converged"
        )
        if made.dead:
            display.say(f"sample: {made.dead} of these nodes are constant or dead; they are marked, and not sampled")
        display.say(totals_table(report.layers))
    display.say(f"run: {sampled.run.location.title}")


def show_gallery(display: Display, summary: GallerySummary) -> None:
    """Tell what the gallery holds, and how to open it."""
    display.say(f"gallery: {summary.samples:,} samples of {summary.nodes} nodes in {summary.layers} layers")
    for kind, names in (("not done yet", summary.missing), ("torn", summary.torn)):
        if names:
            display.say(f"gallery: {len(names)} {kind}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
    local = "://" not in summary.index
    display.say(f"open {Path(summary.index).absolute().as_uri() if local else summary.index}")
