"""What pretraining says: a line for each epoch, warnings once, and a summary that names its files."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training_history import report

from raygen.cli.display import Display
from raygen.cli.epochs import EpochLines, epoch_line
from raygen.training import EpochReport

Call = Callable[..., Any]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Goes on by the seconds that each epoch took."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def said(history: list[EpochReport], *, epochs: int, stream: io.StringIO | None = None) -> list[str]:
    stream = stream or io.StringIO()
    display, clock = Display(stream), Clock()
    lines = EpochLines(display, epochs=epochs, batch_size=64, clock=clock)
    for each in history:
        clock.now += each.seconds
        lines(each)
    return stream.getvalue().splitlines()


def shown(lines: list[str]) -> list[int]:
    return [int(found[1]) for line in lines if (found := re.match(r"epoch +(\d+) of", line))]


def test_an_epoch_line_tells_all_that_one_watches() -> None:
    assert epoch_line(report(4), 30, 75.0) == (
        "epoch  4 of 30 generative: loss 0.5000, test error 7.50 % (5.00 % with log Z), ESS 50.0 % of the batch, "
        "1,000 images/s, 1 min 15 s left"
    )
    assert epoch_line(report(30, "discriminative"), 30, 0.0) == (
        "epoch 30 of 30 discriminative: loss 0.0667, test error 1.00 %, ESS 50.0 % of the batch, 1,000 images/s"
    )


def test_the_time_left_is_that_of_the_last_epochs() -> None:
    lines = said([report(1, seconds=40.0), report(2, seconds=20.0)], epochs=12)
    assert lines[0].endswith("7 min 20 s left")
    assert lines[1].endswith("5 min 0 s left")
    # The first epoch, which starts everything up, is forgotten after five.
    lines = said([report(1, seconds=400.0), *(report(epoch, seconds=4.0) for epoch in range(2, 7))], epochs=16)
    assert lines[-1].endswith(", 40 s left")


def test_a_log_gets_a_line_for_every_epoch_that_is_long() -> None:
    history = [report(epoch, seconds=2.0) for epoch in range(1, 6)]
    assert shown(said(history, epochs=5)) == [1, 2, 3, 4, 5]


def test_a_log_gets_a_line_now_and_then_of_short_epochs_and_the_last_of_each_phase() -> None:
    phases = ["generative"] * 10 + ["discriminative"] * 5
    history = [report(1 + at, phase, seconds=0.5) for at, phase in enumerate(phases)]
    assert shown(said(history, epochs=15)) == [1, 5, 9, 10, 13, 15]


def test_a_phase_whose_last_line_is_out_is_not_shown_twice() -> None:
    phases = ["generative"] * 5 + ["discriminative"] * 2
    history = [report(1 + at, phase, seconds=0.5) for at, phase in enumerate(phases)]
    assert shown(said(history, epochs=7)) == [1, 5, 7]


def test_a_terminal_gets_a_line_for_every_epoch() -> None:
    history = [report(epoch, seconds=0.01) for epoch in range(1, 8)]
    assert shown(said(history, epochs=7, stream=Terminal())) == list(range(1, 8))


def warnings(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("warning: ")]


def test_absent_classes_are_shown_once() -> None:
    history = [report(epoch, absent=0.75) for epoch in (1, 2, 3)]
    assert warnings(said(history, epochs=3)) == [
        "warning: batches of 64 lack 0.75 of 3 classes on average, whose scores learn nothing generatively from those "
        "batches; a larger batch_size helps"
    ]


def test_absent_classes_matter_to_the_generative_gradient_only() -> None:
    assert not warnings(said([report(1, "discriminative", absent=1.0)], epochs=1))
    assert len(warnings(said([report(1, "blend", absent=1.0)], epochs=1))) == 1
    assert not warnings(said([report(1, absent=0.02)], epochs=1))  # under 1 % of three classes


def test_skipped_images_are_shown_when_there_are_more() -> None:
    history = [report(1), report(2, skipped=1), report(3, skipped=1), report(4, skipped=5)]
    assert warnings(said(history, epochs=4)) == [
        "warning: 1 training image could not be read and was skipped",
        "warning: 5 training images could not be read and were skipped",
    ]


PRETRAIN = ("pretrain", "--out", "run", "--local", "--epochs", "2", "--limit", "40", "--generative-epochs", "1")


def test_a_training_ends_with_what_it_came_to_and_where_it_lies(call: Call) -> None:
    first = call(*PRETRAIN)
    assert first.status == 0
    lines = first.out.splitlines()
    assert shown(lines) == [1, 2]
    from raygen.networks import read_description

    description = read_description("run/network.safetensors")
    assert description is not None
    test = description["test"]
    summary = [line for line in lines if line.startswith("test ")]
    assert summary == [
        f"test {name}: error {100 * test[f'error{kind}']:.2f} %, negative log-likelihood "
        f"{test[f'negative_log_likelihood{kind}']:.4f} nats, "
        f"calibration error {100 * test[f'calibration_error{kind}']:.2f} %"
        for name, kind in (("as it is", ""), ("with log Z", "_calibrated"))
    ]
    assert lines[-3:] == [
        "curves: run/curves.png",
        "TensorBoard: tensorboard --logdir run/tensorboard",
        "network: run/network.safetensors",
    ]
    assert Path("run/curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(Path("run/tensorboard").iterdir())) == 2
    again = call(*PRETRAIN)
    assert again.out.splitlines() == [line for line in lines if not line.startswith("epoch")]


def test_what_was_not_written_is_not_pointed_to(call: Call) -> None:
    assert call(*PRETRAIN).status == 0
    Path("run/curves.png").unlink()
    for file in Path("run/tensorboard").iterdir():
        file.unlink()
    said_again = call(*PRETRAIN).out
    assert "curves" not in said_again and "TensorBoard" not in said_again


def test_a_recipe_stands_in_the_request_with_its_values(call: Call) -> None:
    command = ("pretrain", "--recipe", "lenet-mnist", "--data", "digits", "--local", "--limit", "30", "--epochs", "1")
    assert call(*command, "--out", "one", "--batch-size", "16").status == 0
    document = json.loads(Path("one/pretrain.json").read_text())
    assert document["about"]["recipe"] == "lenet-mnist"
    settings = document["request"]["settings"]
    assert (settings["batch_size"], settings["weight_decay"], settings["decay"]) == (16, 0.0005, "inv")
    assert document["request"]["data"] == "digits"
    # The same values by name are the same run.
    named = ("pretrain", "--local", "--limit", "30", "--epochs", "1", "--out", "one", "--batch-size", "16")
    assert call(*named).status == 0


def test_an_unknown_recipe_is_refused_with_the_closest(call: Call) -> None:
    refused = call("pretrain", "--recipe", "lenet-minst", "--out", "run")
    assert (refused.status, refused.out) == (2, "")
    assert re.fullmatch(r"raygen: recipe: unknown recipe 'lenet-minst'; did you mean lenet-mnist.*\n", refused.err)
    assert not Path("run").exists()
