"""Images that do not fit a network are refused before anything is trained."""

import logging
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from raygen.data import ImageSource
from raygen.errors import DataError, NetworkError
from raygen.networks import Network, NetworkSettings, hash_weights, load_network, wrap_network
from raygen.training import TrainingSettings, check_images, check_trains, make_scorer
from raygen.training.check import _forward_sizes, trainable


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


class Small(nn.Module):
    def __init__(self, kind="plain"):
        super().__init__()
        self.kind = kind
        self.mean = nn.Parameter(torch.tensor([[[0.13]]]), requires_grad=False)
        self.c, self.n, self.fc = nn.Conv2d(1, 8, 5), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.c(x - self.mean).mean((2, 3))
        if self.kind == "norm":
            x = self.n(x)
        if self.kind == "in place":
            x = x.exp()
            x += 1
        if self.kind == "after" and not self.training:
            return self.fc(x)[:, [0, 1, 2]] * torch.tensor([1.0, 2.0, 3.0])
        scores = self.fc(x)
        return (scores, scores + 1) if self.kind == "auxiliary" and self.training else scores


def small(kind="plain", names=("a", "b", "c")):
    torch.manual_seed(0)
    return wrap_network(Small(kind), name="small", input_shape=(1, 9, 9), class_names=names)


@pytest.mark.parametrize(
    ("images", "batch", "micro", "workers", "sizes"),
    [
        (65, 64, None, 1, {64, 1}),
        (64, 64, None, 1, {64}),
        (10, 64, None, 1, {10}),
        (65, 64, None, 2, {32, 1}),
        (67, 64, None, 2, {32, 1, 2}),
        (64, 64, 10, 1, {10, 4}),
        (64, 64, 9, 2, {9, 5}),
        (3, 2, None, 1, {2, 1}),
    ],
)
def test_the_numbers_of_images_that_a_worker_computes_at_once_are_known(images, batch, micro, workers, sizes):
    assert _forward_sizes(TrainingSettings(batch_size=batch, micro_batch=micro), images, workers) == sizes


def test_a_last_batch_of_one_image_is_refused_before_training_only_where_it_cannot_be_normalised():
    settings = TrainingSettings(batch_size=64)
    check_trains(small("norm"), settings, 3, 64, [1])
    check_trains(small("plain"), settings, 3, 65, [1])
    with pytest.raises(NetworkError, match=r"^network small: .* one image, as the last batch of 65 may"):
        check_trains(small("norm"), settings, 3, 65, [1])
    check_trains(small("norm"), settings, 3, 66, [1])
    with pytest.raises(NetworkError, match=r"^network small: cannot be trained on one image"):
        check_trains(small("norm"), settings, 3, 66, [1, 2])


def test_auxiliary_scores_of_the_training_mode_are_left_out():
    check_trains(small("auxiliary"), TrainingSettings(), 3, 64, [1])


def test_a_backward_pass_that_fails_is_one_line_before_training():
    with pytest.raises(NetworkError, match=r"^network small: cannot be trained on 2 images; its backward fails"):
        check_trains(small("in place"), TrainingSettings(), 3, 64, [1])


def test_a_trial_step_leaves_the_network_and_the_random_numbers_alone():
    network, state = small("norm"), torch.get_rng_state()
    check_trains(network, TrainingSettings(), 3, 64, [1])
    assert hash_weights(network.module.state_dict()) == network.weights_hash
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters_that_the_factory_fixed_take_no_gradient():
    module = trainable(small(), ("a", "b", "c"), named=True)
    assert [name for name, weights in module.named_parameters() if not weights.requires_grad] == ["mean"]
    assert wrap_network(Small().requires_grad_(False), name="x", input_shape=(1, 9, 9)).fixed[-1] == "fc.bias"
    with pytest.raises(NetworkError, match="has no parameter to train"):
        trainable(wrap_network(Small().requires_grad_(False), name="x", input_shape=(1, 9, 9)), (), named=False)


def test_scores_of_named_weights_are_put_in_the_order_of_the_images_classes():
    network = small()
    x = torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    before = network.module(x)
    found = trainable(network, ("c", "a", "b"), named=True).eval()(x)
    torch.testing.assert_close(found, before[:, [2, 0, 1]])
    assert torch.equal(trainable(network, ("c", "a", "b"), named=False).eval()(x), before)  # weights of chance
    assert torch.equal(trainable(network, ("x", "y", "z"), named=True).eval()(x), before)  # other classes


def test_where_the_order_cannot_be_changed_a_warning_shows_both_and_nothing_is_changed(caplog):
    network = small("after")
    x = torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(trainable(network, ("c", "a", "b"), named=True).eval()(x), network.module(x))
    assert "in the order a, b, c, those of the images in the order c, a, b:" in caplog.text


@pytest.mark.parametrize(
    ("own", "data"),
    [
        (("a", "a", "c"), ("c", "a", "a")),
        (("cat", "dog", "emu"), ("dog", "emu", "fox")),
        (("Light", "Night", "dusk"), ("night", "light", "dusk")),
    ],
)
def test_classes_that_cannot_be_matched_and_stand_elsewhere_are_warned_of_once(caplog, own, data):
    network = small(names=own)
    x = torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(trainable(network, data, named=True).eval()(x), network.module(x))
    assert [record.getMessage() for record in caplog.records] == [
        f"network small: its classes are in the order {', '.join(own)}, those of the images in the order "
        f"{', '.join(data)}: some start with the scores of others"
    ]


@pytest.mark.parametrize("data", [("x", "y", "z"), ("A", "B", "C"), ("a", "b", "z"), ("a", "b", "c")])
def test_classes_that_stand_where_they_stood_or_are_others_are_not_spoken_of(caplog, data):
    trainable(small(), data, named=True)
    assert caplog.records == []


class Unused(nn.Module):
    """The layer that was made last gives no scores; those that are given are small."""

    def __init__(self, factor):
        super().__init__()
        self.fc, self.other, self.factor = nn.Linear(81, 3), nn.Linear(3, 3), factor

    def forward(self, x):
        return 1e-6 * self.fc(x.flatten(1)) * self.factor


def test_the_layer_that_gives_the_scores_is_found_however_small_they_are(caplog):
    for factor, moved in ((torch.ones(3), True), (torch.tensor([1.0, 2.0, 3.0]), False)):
        torch.manual_seed(0)
        network = wrap_network(Unused(factor), name="small", input_shape=(1, 9, 9), class_names=("a", "b", "c"))
        x = torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(1))
        found = trainable(network, ("c", "a", "b"), named=True).eval()(x)
        order = [2, 0, 1] if moved else [0, 1, 2]
        torch.testing.assert_close(found, network.module(x)[:, order], rtol=1e-5, atol=0)
        assert len(caplog.records) == (0 if moved else 1)


def test_of_scores_by_name_the_main_ones_are_taken():
    images = torch.zeros(2, 1, 9, 9, dtype=torch.uint8)

    class Named(Unused):
        def forward(self, x):
            return {"aux": torch.zeros(len(x), 3), "out": super().forward(x) + 1}

    module = Named(torch.ones(3))
    scores = make_scorer((0.0,), (1.0,), 3, "float32", module).scores(module, images)
    torch.testing.assert_close(scores, module(images.float())["out"])
