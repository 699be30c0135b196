"""What each stage says: while it works, and when it is done."""

from __future__ import annotations

from pathlib import Path

from raygen.cli.display import Display, duration, progress_line
from raygen.gallery import GallerySummary
from raygen.sampling import FarmReport
from raygen.stages import Sampled
from raygen.tilting import Provenance
from raygen.training import EpochReport, TrainingFolder


def show_epoch(display: Display, report: EpochReport, epochs: int) -> None:
    """Tell of an epoch that is done."""
    display.update(
        progress_line(
            report.epoch / epochs,
            report.seconds * (epochs - report.epoch),
            f"epoch {report.epoch} of {epochs} ({report.phase})",
            f"test error {100 * report.test_error:.2f} %",
            f"ESS {100 * report.ess:.0f} % of a batch",
            f"{report.images_per_second:.0f} images/s",
        )
    )


def show_trained(display: Display, folder: TrainingFolder) -> None:
    """Tell of a training that is done: the errors of each phase's last epoch, and where the network lies."""
    history = folder.history()
    last = {report.phase: report for report in history}
    for phase, report in last.items():
        display.say(
            f"pretrain: {phase} until epoch {report.epoch}: test error {100 * report.test_error:.2f} % "
            f"({100 * report.test_error_calibrated:.2f} % with log Z)"
        )
    display.say(f"network: {folder.network}")


def show_farm(display: Display, report: FarmReport) -> None:
    """Tell how far sampling is."""
    acceptance = "" if report.acceptance is None else f"acceptance {report.acceptance:.2f}"
    actors = "1 actor" if report.actors == 1 else f"{report.actors} actors"
    display.update(
        progress_line(
            report.fraction, report.seconds_left, f"{report.done} of {report.units} units", actors, acceptance
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
    made = report.reports
    if report.before:
        display.say(f"sample: {report.before} of {report.units} units were there already")
    if made:
        gradients = sum(unit.gradients for unit in made)
        nodes = sum(unit.nodes for unit in made)
        display.say(
            f"sample: {sum(unit.samples for unit in made):,} samples of {nodes} nodes in {duration(report.seconds)}, "
            f"{gradients:,} gradients, {sum(unit.converged for unit in made)} nodes converged"
        )
        if quiet := sum(unit.quiet for unit in made):
            display.say(f"sample: {quiet} of these nodes are constant or dead; they are marked, and not sampled")
    display.say(f"run: {sampled.run.location.text}")


def show_gallery(display: Display, summary: GallerySummary) -> None:
    """Tell what the gallery holds, and how to open it."""
    display.say(f"gallery: {summary.samples:,} samples of {summary.nodes} nodes in {summary.layers} layers")
    for kind, names in (("not done yet", summary.missing), ("torn", summary.torn)):
        if names:
            display.say(f"gallery: {len(names)} {kind}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
    local = "://" not in summary.index
    display.say(f"open {Path(summary.index).absolute().as_uri() if local else summary.index}")
