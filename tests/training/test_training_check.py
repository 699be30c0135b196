"""Images that do not fit a network are refused before anything is trained."""

import logging
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from raygen.data import ImageSource
from raygen.errors import DataError
from raygen.networks import Network, NetworkSettings, load_network
from raygen.training import check_images


@dataclass(frozen=True)
class Labels:
    """The part of an image source that the check looks at: it must not need more, since images may be many."""

    labels: Tensor
    class_names: tuple[str, ...] = tuple("0123456789")
    name: str = "thing"

    def __len__(self) -> int:
        return len(self.labels)


def source(*labels: int, class_names: tuple[str, ...] = tuple("0123456789")) -> ImageSource:
    return Labels(torch.tensor(labels, dtype=torch.int64), class_names)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def lenet() -> Network:
    return load_network(NetworkSettings(weights="random"), seed=1)


GOOD = source(*range(10))


def test_images_that_fit_are_not_spoken_of(lenet: Network, caplog: pytest.LogCaptureFixture) -> None:
    check_images(lenet, source(-1, *range(10)), GOOD)
    assert caplog.records == []


@pytest.mark.parametrize("label", [10, -2, 255])
def test_a_label_out_of_range_is_refused(lenet: Network, label: int) -> None:
    with pytest.raises(DataError, match=f"data thing: label {label} of training image 2 is out of range; .* 0 to 9"):
        check_images(lenet, source(0, 1, label), GOOD)
    with pytest.raises(DataError, match=f"label {label} of test image 0 is out of range"):
        check_images(lenet, GOOD, source(label))


def test_another_number_of_classes_is_refused(lenet: Network) -> None:
    three = source(0, 1, 2, class_names=("a", "b", "c"))
    what = "data thing: the network gives 10 scores, the images have 3 classes; choose a network with 3 classes"
    with pytest.raises(DataError, match=what):
        check_images(lenet, three, three)
    with pytest.raises(DataError, match="the test images have other classes"):
        check_images(lenet, GOOD, three)


def test_no_images_are_refused(lenet: Network) -> None:
    with pytest.raises(DataError, match="there are no training images"):
        check_images(lenet, source(), GOOD)
    with pytest.raises(DataError, match="there are no test images"):
        check_images(lenet, GOOD, source())


def test_a_class_without_images_is_warned_of(lenet: Network, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_images(lenet, source(0, 1, 2, 3, 4, 5, 6, 8), GOOD)
    assert [record.getMessage() for record in caplog.records] == [
        "data thing: 2 of 10 classes have no training image: 7, 9"
    ]
