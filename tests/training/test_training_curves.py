"""The picture of a run, and that no picture ever costs a run."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_history import report

from raygen.storage import Location
from raygen.training import Evaluation
from raygen.training.curves import CURVES, draw_curves, show_history
from raygen.training.events import EVENTS

BLUE, ORANGE, GREY = (0x1F, 0x5F, 0xA8), (0xD9, 0x72, 0x0F), (0x55, 0x55, 0x55)
NAN = float("nan")


def pixels(png):
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert picture.shape == (504, 1200, 3)
    return picture


def where(picture, colour, part):
    """Which pixels of one of the two panels have about this colour."""
    panel = picture[60:, :600] if part == "left" else picture[60:, 600:]
    return np.abs(panel - colour).max(-1) < 12


def test_both_errors_stand_left_and_the_sample_size_right():
    picture = pixels(draw_curves([report(epoch) for epoch in range(1, 9)]))
    for colour, part in ((BLUE, "left"), (ORANGE, "left"), (BLUE, "right")):
        found = np.flatnonzero(where(picture, colour, part).any(0))
        assert found[-1] - found[0] > 400  # over the whole width
    assert not where(picture, ORANGE, "right").any()
    # The range over classes, a light blue, lies in the right panel alone.
    light = tuple(round(255 - 0.2 * (255 - value)) for value in BLUE)
    assert where(picture, light, "right").sum() > 20_000
    assert where(picture, light, "left").sum() < 1_000


def test_the_switch_is_marked_where_it_was():
    def mark(switch):
        phases = ["generative" if epoch <= switch else "discriminative" for epoch in range(1, 11)]
        picture = pixels(draw_curves([report(1 + at, phase) for at, phase in enumerate(phases)]))
        counts = (np.abs(picture[60:430, :600] - GREY).max(-1) < 40).sum(0)
        # The dotted line is a column of many grey pixels; axes and letters are black or short.
        return int(counts.argmax()), int(counts.max())

    (early, dots), (late, _) = mark(3), mark(8)
    assert dots > 60
    # An epoch is a tenth of the axis, 55 pixels; the axis begins at epoch 0.5, 40 pixels from the left.
    assert early == pytest.approx(40 + 3 * 55, abs=15)
    assert late == pytest.approx(40 + 8 * 55, abs=15)
    assert mark(10)[1] < dots / 2


@pytest.mark.parametrize(
    "history",
    [
        [report(1)],
        [report(1, test=Evaluation(NAN, NAN, NAN, NAN, NAN, NAN))],
        [report(1), report(2, test=Evaluation(0.0, 0.0, 0.0, 0.0, 0.0, 0.0))],
        [report(epoch, "blend", ess=0.0, ess_by_class=(0.0, 0.0)) for epoch in (1, 2)],
    ],
    ids=["one epoch", "no labelled test image", "no error", "no ESS"],
)
def test_odd_histories_are_drawn(history):
    pixels(draw_curves(history))


def test_drawing_starts_no_global_state_of_matplotlib():
    program = (
        "import sys; from raygen.training.curves import draw_curves; assert 'matplotlib' not in sys.modules\n"
        "from training_history import report; draw_curves([report(1)]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], check=True, env=here)


def shown_after(history, root):
    """How many of the epochs drew the curves anew."""
    location = Location.of(str(root))
    drawn = 0
    for done in range(1, len(history) + 1):
        location.remove(CURVES)
        show_history(location, history[:done])
        drawn += location.exists(CURVES)
    return drawn


def test_curves_are_drawn_after_long_epochs_and_now_and_then_after_short_ones(tmp_path):
    assert shown_after([report(epoch, seconds=60.0) for epoch in range(1, 5)], tmp_path / "long") == 4
    # The first one, and those in which 10 and 20 seconds are over.
    assert shown_after([report(epoch, seconds=2.0) for epoch in range(1, 12)], tmp_path / "short") == 3
    assert len(Location.of(str(tmp_path / "short")).names(EVENTS)) == 11


def test_the_last_curves_are_drawn_in_any_case(tmp_path):
    location = Location.of(str(tmp_path))
    history = [report(1, seconds=1.0), report(2, seconds=1.0)]
    show_history(location, history)
    assert not location.exists(CURVES)
    show_history(location, history, finished=True)
    assert location.exists(CURVES)


def test_storage_that_refuses_does_not_cost_the_run(tmp_path, caplog):
    (tmp_path / EVENTS).write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        show_history(Location.of(str(tmp_path)), [report(1)])
    (record,) = caplog.records
    assert "the events of epoch 1 are not written" in record.message
    assert (tmp_path / CURVES).exists()  # one does not keep the other away
    (tmp_path / CURVES).unlink()
    (tmp_path / CURVES).mkdir()
    (tmp_path / CURVES / "a file").write_text("")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        show_history(Location.of(str(tmp_path)), [report(1)])
    told = [record.message for record in caplog.records]
    assert ["events" in told[0], "curves" in told[1], len(told)] == [True, True, 2]


def test_a_run_without_epochs_shows_nothing(tmp_path):
    show_history(Location.of(str(tmp_path)), [], finished=True)
    assert not list(tmp_path.iterdir())
