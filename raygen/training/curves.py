"""A run at a glance: its test error and the effective sample size of its importance weights, over the epochs."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from raygen.storage import Location
from raygen.training.events import write_events
from raygen.training.reports import EpochReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = "curves.png"
"""The file in the run's folder."""

_BLUE, _ORANGE, _GREY = "#1f5fa8", "#d9720f", "#555555"
_LOG_FROM = 5.0
"""Largest over smallest value from which on an axis is logarithmic."""


def draw_curves(history: Sequence[EpochReport]) -> bytes:
    """Return a PNG of two panels: test error, raw and with log Z; effective sample size, mean and range over classes.

    Args:
        history: one report or more.
    """
    # A second to import, which the commands that draw nothing are spared.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_error(left, history)
    _draw_ess(right, history)
    for axes in (left, right):
        _draw_epochs(axes, history)
        axes.legend(frameon=False)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()


def _draw_error(axes: Axes, history: Sequence[EpochReport]) -> None:
    epochs = [report.epoch for report in history]
    raw = [100 * report.test.error for report in history]
    calibrated = [100 * report.test.error_calibrated for report in history]
    axes.plot(epochs, raw, "o-", color=_BLUE, markersize=4, label=f"raw: last {raw[-1]:.2f} %")
    label = f"with log Z: last {calibrated[-1]:.2f} %"
    axes.plot(epochs, calibrated, "s--", color=_ORANGE, markersize=4, label=label)
    _scale(axes, [*raw, *calibrated])
    axes.set_title("test error, %", pad=20)


def _draw_ess(axes: Axes, history: Sequence[EpochReport]) -> None:
    epochs = [report.epoch for report in history]
    least, most = ([100 * end(report.ess_by_class) for report in history] for end in (min, max))
    mean = [100 * report.ess for report in history]
    axes.plot(epochs, mean, "o-", color=_BLUE, markersize=4, label=f"mean over classes: last {mean[-1]:.1f} %")
    axes.fill_between(epochs, least, most, color=_BLUE, alpha=0.2, linewidth=0, label="lowest to highest class")
    _scale(axes, [*least, *most])
    axes.set_title("effective sample size, % of the batch", pad=20)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Choose a logarithmic axis for values of many sizes, else one from 0."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter  # noqa: PLC0415

    shown = [value for value in values if math.isfinite(value)]  # no test image may have a label
    if not shown:
        return
    low, high = min(shown), max(shown)
    if low <= 0 or high < _LOG_FROM * low:
        axes.set_ylim(0, 1.1 * high or 1)
        return
    axes.set_yscale("log")
    axes.set_ylim(0.8 * low, 1.25 * high)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_epochs(axes: Axes, history: Sequence[EpochReport]) -> None:
    """Mark the epochs, and which gradient they followed."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, history[-1].epoch + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    for phase, reports in groupby(history, lambda report: report.phase):
        numbers = [report.epoch for report in reports]
        if numbers[0] > 1:
            axes.axvline(numbers[0] - 0.5, color=_GREY, linewidth=1.2, linestyle=":")
        middle = (numbers[0] + numbers[-1]) / 2
        axes.annotate(phase, (middle, 1.015), xycoords=axes.get_xaxis_transform(), ha="center", color=_GREY, fontsize=9)


_log = logging.getLogger(__name__)

_DRAWN_EVERY = 10.0
"""Seconds of training from one picture to the next; one takes a third of a second to draw."""


def show_history(location: Location, history: Sequence[EpochReport], *, finished: bool = False) -> None:
    """Write the events and, now and then, the curves of a run to its folder; a failure is logged and passed over.

    Args:
        location: the run's folder.
        history: one report for each epoch that is done.
        finished: whether no epoch will follow, so that the curves must be drawn.
    """
    if not history:
        return
    _try("events", location, history, lambda: write_events(location, history))
    if finished or _is_due(history):
        _try("curves", location, history, lambda: location.write(CURVES, draw_curves(history)))


def _try(what: str, location: Location, history: Sequence[EpochReport], write: Callable[[], None]) -> None:
    try:
        write()
    except Exception as error:  # whatever it is, training goes on without its pictures
        done = history[-1].epoch
        _log.warning("%s: the %s of epoch %d are not written (%r)", location.title, what, done, error)


def _is_due(history: Sequence[EpochReport]) -> bool:
    """Whether the last epoch is the first one, or the first to end in its ten seconds of the training."""
    after = math.fsum(report.seconds for report in history)
    before = after - history[-1].seconds
    return len(history) == 1 or after // _DRAWN_EVERY > before // _DRAWN_EVERY
