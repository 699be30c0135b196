"""What a person reads of a training: a line for each epoch, warnings, and a summary of what came of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from raygen.cli.display import Display, duration
from raygen.training import CURVES, EVENTS, EpochReport, TrainingFolder, final_evaluation

_EVERY = 2.0
"""Seconds between two epoch lines in a log; epochs that are shorter are passed over."""

_RECENT = 5
"""Epochs whose mean time says how long the others will take."""

_ABSENT = 0.01
"""Part of the classes, absent from a batch on average, from which on it is worth a warning."""


class EpochLines:
    """Tells of each epoch in a line that stays.

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
        self._told_at = -_EVERY
        self._untold: EpochReport | None = None
        self._absent_told = False
        self._skipped_told = 0
        self._seconds: deque[float] = deque(maxlen=_RECENT)

    def __call__(self, report: EpochReport) -> None:
        """Tell of an epoch that is done."""
        self._seconds.append(report.seconds)
        self._warn(report)
        if self._untold is not None and self._untold.phase != report.phase:
            self._tell(self._untold)
        if self._display.is_terminal or report.epoch == self._epochs or self._clock() - self._told_at >= _EVERY:
            self._tell(report)
            self._told_at = self._clock()
        else:
            self._untold = report
        if report.epoch < self._epochs:
            left = duration(self._seconds_left(report))
            self._display.live(f"epoch {report.epoch + 1} of {self._epochs}, {left} left")

    def _tell(self, report: EpochReport) -> None:
        self._untold = None
        self._display.say(epoch_line(report, self._epochs, self._seconds_left(report)))

    def _seconds_left(self, report: EpochReport) -> float:
        return sum(self._seconds) / len(self._seconds) * (self._epochs - report.epoch)

    def _warn(self, report: EpochReport) -> None:
        classes = len(report.ess_by_class)
        if not self._absent_told and report.phase != "discriminative" and report.absent > _ABSENT * classes:
            self._absent_told = True
            self._display.say(
                f"warning: batches of {self._batch_size} lack {report.absent:.3g} of {classes} classes on average, "
                "whose scores learn nothing generatively from those batches; a larger batch_size helps"
            )
        if report.skipped > self._skipped_told:
            self._skipped_told = report.skipped
            images = "image could not be read and was" if report.skipped == 1 else "images could not be read and were"
            self._display.say(f"warning: {report.skipped} training {images} skipped")


def epoch_line(report: EpochReport, epochs: int, seconds_left: float) -> str:
    """Return what an epoch came to, in columns that stand under each other from epoch to epoch."""
    test = report.test
    calibrated = "" if report.phase == "discriminative" else f" ({100 * test.error_calibrated:.2f} % with log Z)"
    left = f", {duration(seconds_left)} left" if report.epoch < epochs else ""
    return (
        f"epoch {report.epoch:>{len(str(epochs))}} of {epochs} {report.phase}: loss {report.loss:.4f}, "
        f"test error {100 * test.error:.2f} %{calibrated}, ESS {100 * report.ess:.1f} % of the batch, "
        f"{report.images_per_second:,.0f} images/s{left}"
    )


def show_trained(display: Display, folder: TrainingFolder) -> None:
    """Tell of a training that is done: errors by phase, how good the network is, and where everything lies."""
    last = {report.phase: report for report in folder.history()}
    for phase, report in last.items():
        display.say(
            f"pretrain: {phase} until epoch {report.epoch}: test error {100 * report.test.error:.2f} % "
            f"({100 * report.test.error_calibrated:.2f} % with log Z)"
        )
    found = final_evaluation(folder)
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
    place = folder.location.title
    if folder.location.exists(CURVES):
        display.say(f"curves: {place}/{CURVES}")
    if folder.location.names(EVENTS):
        display.say(f"TensorBoard: tensorboard --logdir {place}/{EVENTS}")
    display.say(f"network: {folder.network}")
