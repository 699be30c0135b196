"""What a run shows of itself beside its metrics: TensorBoard's events and a picture of its curves."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from raygen.storage import Location
from raygen.training.curves import CURVES, draw_curves
from raygen.training.events import write_events
from raygen.training.reports import EpochReport

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
        _log.warning("%s: the %s of epoch %d are not written (%r)", location.text, what, done, error)


def _is_due(history: Sequence[EpochReport]) -> bool:
    """Whether the last epoch is the first one, or the first to end in its ten seconds of the training."""
    after = math.fsum(report.seconds for report in history)
    before = after - history[-1].seconds
    return len(history) == 1 or after // _DRAWN_EVERY > before // _DRAWN_EVERY
