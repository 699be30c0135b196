"""Epochs as TensorBoard reads them: a small file of events for each.

Whole files, one an epoch, can be written to any storage, and an epoch that is done again after a restart writes its own
file again, so no point is doubled. TensorBoard reads the files of a folder as one, in the order of their names, and
takes up new ones while it runs, which it would not do with a file that is replaced.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Mapping, Sequence

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from raygen.storage import Location
from raygen.training.reports import EpochReport

EVENTS = "tensorboard"
"""The folder of the event files, in that of the run."""

_VERSION = "brain.Event:2"
"""How the first event of a file says which format it has."""


def write_events(location: Location, history: Sequence[EpochReport]) -> None:
    """Write the events of the last epoch, and of any before it that have none, to the run's folder.

    Raises:
        StoreError: if the storage refuses.
    """
    present = set(location.names(EVENTS))
    now = time.time()
    for report in history:
        name = f"events.out.tfevents.{report.epoch:010d}.raygen"
        if report is history[-1] or name not in present:
            location.write(f"{EVENTS}/{name}", event_file(report, now))


def event_file(report: EpochReport, when: float) -> bytes:
    """Return the event file of an epoch: its scalars at the step ``report.epoch``, with the time ``when``."""
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(report).items()]
    events = (
        Event(wall_time=when, file_version=_VERSION),
        Event(wall_time=when, step=report.epoch, summary=Summary(value=values)),
    )
    return b"".join(_records(event.SerializeToString() for event in events))


def scalars(report: EpochReport) -> Mapping[str, float]:
    """Return what is plotted of an epoch, by tag; the parts before the slash are TensorBoard's sections."""
    test = report.test
    return {
        "train/loss": report.loss,
        "train/learning_rate": report.learning_rate,
        "train/images_per_second": report.images_per_second,
        "train/skipped_images": report.skipped,
        "test/error": test.error,
        "test/error_calibrated": test.error_calibrated,
        "test/negative_log_likelihood": test.negative_log_likelihood,
        "test/negative_log_likelihood_calibrated": test.negative_log_likelihood_calibrated,
        "test/calibration_error": test.calibration_error,
        "test/calibration_error_calibrated": test.calibration_error_calibrated,
        "importance/ess_mean": report.ess,
        "importance/ess_min_over_classes": min(report.ess_by_class),
        "importance/largest_weight": max(report.largest_weight_by_class),
        "importance/absent_classes": report.absent,
    }


def _records(messages: Iterable[bytes]) -> Iterable[bytes]:
    """Frame messages as TensorFlow's record files do: length, its check sum, message, its check sum."""
    for message in messages:
        length = struct.pack("<Q", len(message))
        yield length + struct.pack("<I", masked_crc32c(length))
        yield message + struct.pack("<I", masked_crc32c(message))
