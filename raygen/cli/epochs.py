"""What a training prints: a line for each epoch, warnings, and a summary."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from raygen import training
from raygen.cli.display import Display, duration
from raygen.storage import title_of
from raygen.text import for_shell

if TYPE_CHECKING:
    from raygen.training import EpochReport, TrainingFolder

_EVERY = 2.0
"""Seconds between two epoch lines in a log; of shorter epochs some get no line."""

_RECENT = 5
"""Epochs whose mean time says how long the others will take."""

_ABSENT = 0.01
"""A warning is given when more than this part of the classes is absent from a batch on average."""


class EpochLines:
    """Shows each epoch as a line that stays.

    A terminal gets a line for every epoch. A log gets one at most every two seconds, the last of each phase, and the
    last of all.

    Args:
        display: where the stage is shown.
        epochs: how many there will be.
        batch_size: images of a batch.
        clock: seconds.
    """

    def __init__(
        self, display: Display, *, epochs: int, batch_size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._display = display
        self._epochs = epochs
        self._batch_size = batch_size
        self._clock = clock
        self._shown_at = -_EVERY
        self._waiting: EpochReport | None = None
        self._warned_absent = False
        self._warned_skipped = 0
        self._seconds: deque[float] = deque(maxlen=_RECENT)

    def __call__(self, report: EpochReport) -> None:
        """Take in the report of an epoch that is done."""
        self._seconds.append(report.seconds)
        self._warn(report)
        if self._waiting is not None and self._waiting.phase != report.phase:
            self._show(self._waiting)
        if self._display.is_terminal or report.epoch == self._epochs or self._clock() - self._shown_at >= _EVERY:
            self._show(report)
            self._shown_at = self._clock()
        else:
            self._waiting = report
        if report.epoch < self._epochs:
            left = duration(self._seconds_left(report))
            self._display.live(f"epoch {report.epoch + 1} of {self._epochs}, {left} left")

    def _show(self, report: EpochReport) -> None:
        self._waiting = None
        self._display.say(epoch_line(report, self._epochs, self._seconds_left(report)))

    def _seconds_left(self, report: EpochReport) -> float:
        return sum(self._seconds) / len(self._seconds) * (self._epochs - report.epoch)

    def _warn(self, report: EpochReport) -> None:
        classes = len(report.ess_by_class)
        if not self._warned_absent and report.phase != "discriminative" and report.absent > _ABSENT * classes:
            self._warned_absent = True
            self._display.say(
                f"warning: batches of {self._batch_size} lack {report.absent:.3g} of {classes} classes on average, "
                "whose scores learn nothing generatively from those batches; a larger batch_size helps"
            )
        if report.skipped > self._warned_skipped:
            self._warned_skipped = report.skipped
            images = "image could not be read and was" if report.skipped == 1 else "images could not be read and were"
            self._display.say(f"warning: {report.skipped} training {images} skipped")


def epoch_line(report: EpochReport, epochs: int, seconds_left: float) -> str:
    """Return the results of an epoch, in columns that are aligned from epoch to epoch."""
    test = report.test
    calibrated = "" if report.phase == "discriminative" else f" ({100 * test.error_calibrated:.2f} % with log Z)"
    left = f", {duration(seconds_left)} left" if report.epoch < epochs else ""
    return (
        f"epoch {report.epoch:>{len(str(epochs))}} of {epochs} {report.phase}: loss {report.loss:.4f}, "
        f"test error {100 * test.error:.2f} %{calibrated}, ESS {100 * report.ess:.1f} % of the batch, "
        f"{report.images_per_second:,.0f} images/s{left}"
    )


def show_trained(display: Display, folder: TrainingFolder) -> None:
    """Show the results of a training: errors by phase, how good the network is, and where its files are."""
    last = {report.phase: report for report in folder.history()}
    for phase, report in last.items():
        display.say(
            f"pretrain: {phase} until epoch {report.epoch}: test error {100 * report.test.error:.2f} % "
            f"({100 * report.test.error_calibrated:.2f} % with log Z)"
        )
    found = training.final_evaluation(folder)
    if found is not None:
        for name, error, likelihood, calibration in (
            ("as it is", found.error, found.negative_log_likelihood, found.calibration_error),
            (
                "with log Z",
                found.error_calibrated,
                found.negative_log_likelihood_calibrated,
                found.calibration_error_calibrated,
            ),
        ):
            display.say(
                f"test {name}: error {100 * error:.2f} %, negative log-likelihood {likelihood:.4f} nats, "
                f"calibration error {100 * calibration:.2f} %"
            )
    where = folder.location.title
    if folder.location.exists(training.CURVES):
        display.say(f"curves: {where}/{training.CURVES}")
    if folder.location.names(training.EVENTS):
        display.say(f"TensorBoard: tensorboard --logdir {for_shell(f'{where}/{training.EVENTS}')}")
    display.say(f"network: {title_of(folder.network)}")
