"""TensorBoard's events, read back by the format's own rules: each epoch once, whatever happened to the run."""

import struct

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event
from training_history import report

from raygen.storage import Location
from raygen.training.events import EVENTS, event_file, scalars, write_events


def masked(data):
    check = crc32c(data)
    return (((check >> 15) | (check << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def events_in(data):
    """Read a TFRecord file, checking its sums."""
    found = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked(data[:8])
        message, check = data[12 : 12 + length], data[12 + length : 16 + length]
        assert len(message) == length and struct.unpack("<I", check)[0] == masked(message)
        found.append(Event.FromString(message))
        data = data[16 + length :]
    return found


def points(location):
    """All points of the folder: tag to a list of (step, value), as TensorBoard reads it, file by file."""
    found = {}
    for name in location.names(EVENTS):
        assert "tfevents" in name
        for event in events_in(location.read(f"{EVENTS}/{name}")):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_a_file_says_its_format_first_and_then_every_scalar_at_the_step_of_the_epoch():
    first, second = events_in(event_file(report(7), 1234.5))
    assert first.file_version == "brain.Event:2" and not first.summary.value
    assert (second.step, first.wall_time, second.wall_time) == (7, 1234.5, 1234.5)
    got = {value.tag: value.simple_value for value in second.summary.value}
    assert got == pytest.approx(dict(scalars(report(7))), rel=1e-6)


def test_the_scalars_are_those_of_the_report():
    shown = scalars(report(2, skipped=3, absent=0.125))
    assert shown == {
        "train/loss": 1.0,
        "train/learning_rate": 0.01,
        "train/images_per_second": 1000.0,
        "train/skipped_images": 3,
        "test/error": 0.15,
        "test/error_calibrated": 0.1,
        "test/negative_log_likelihood": 0.75,
        "test/negative_log_likelihood_calibrated": 0.625,
        "test/calibration_error": 0.025,
        "test/calibration_error_calibrated": 0.02,
        "importance/ess_mean": 0.5,
        "importance/ess_min_over_classes": 0.25,
        "importance/largest_weight": 0.25,
        "importance/absent_classes": 0.125,
    }


@pytest.fixture(params=["path", "URI"])
def location(request, tmp_path):
    root = tmp_path / "run"
    return Location.of(root.as_uri() if request.param == "URI" else str(root))


def test_a_run_that_goes_back_an_epoch_has_each_point_once(location):
    history = [report(epoch) for epoch in range(1, 13)]
    for done in (*range(1, 13), 12):  # the state after the twelfth was torn
        write_events(location, history[:done])
    found = points(location)
    assert set(found) == set(scalars(history[0]))
    assert [step for step, _ in found["train/loss"]] == list(range(1, 13))
    assert [value for _, value in found["train/loss"]] == pytest.approx([2.0 / epoch for epoch in range(1, 13)])


def test_an_epoch_that_is_done_again_replaces_its_points(location):
    write_events(location, [report(1), report(2)])
    write_events(location, [report(1), report(2, loss=0.5)])
    assert points(location)["train/loss"] == [(1, 2.0), (2, 0.5)]


def test_epochs_whose_events_were_lost_are_written_with_the_next(location):
    write_events(location, [report(1)])
    write_events(location, [report(epoch) for epoch in range(1, 5)])
    assert [step for step, _ in points(location)["test/error"]] == [1, 2, 3, 4]
    before = {name: location.read(f"{EVENTS}/{name}") for name in location.names(EVENTS)[:3]}
    write_events(location, [report(epoch) for epoch in range(1, 5)])
    assert before == {name: location.read(f"{EVENTS}/{name}") for name in before}
