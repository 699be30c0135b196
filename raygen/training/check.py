"""What can be said of network and images before any worker starts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from raygen.data import ImageSource
from raygen.errors import DataError, NetworkError
from raygen.networks import Network, copy_module, first_real
from raygen.text import first_of
from raygen.training.scoring import make_ready, make_scorer
from raygen.training.settings import TrainingSettings
from raygen.training.sharing import rank_and_processes

log = logging.getLogger(__name__)


def check_images(network: Network, train_set: ImageSource, test_set: ImageSource) -> None:
    """Check that a network can be trained on images; a class without training images is warned of.

    Args:
        network: on the CPU.
        train_set: the images to learn.
        test_set: of the same classes.

    Raises:
        DataError: there are no images, a label is out of range, or the network gives another number of scores.
    """
    classes = len(train_set.class_names)
    if test_set.class_names != train_set.class_names:
        raise DataError("the test images have other classes than the training images", where=f"data {test_set.name}",
                        right="give both the same classes")  # fmt: skip
    for images, kind in ((train_set, "training"), (test_set, "test")):
        _check_labels(images, kind, classes)
    with torch.no_grad():
        scores = network.module(first_real(network.module).new_zeros(1, *network.input_shape))
    if scores.shape != (1, classes):
        what = f"the network gives {_sizes(scores)} scores, the images have {classes} classes"
        raise DataError(what, where=f"data {train_set.name}", right=f"choose a network with {classes} classes")
    counts = torch.bincount(train_set.labels[train_set.labels >= 0], minlength=classes)
    empty = [name for name, count in zip(train_set.class_names, counts.tolist(), strict=True) if not count]
    if empty:
        names = first_of(empty, 5)
        log.warning("data %s: %d of %d classes have no training image: %s", train_set.name, len(empty), classes, names)


def check_trains(
    network: Network, settings: TrainingSettings, classes: int, images: int, workers: Iterable[int]
) -> None:
    """Try a step in training mode, which may need what evaluation does not, on a copy of the network.

    Args:
        network: on the CPU.
        settings: the recipe.
        classes: of the images.
        images: number of training images.
        workers: how many there may be.

    Raises:
        NetworkError: if no parameter is to be trained, or its forward or backward fails, on one image where batches or
            their parts may have one.
        DataError: if it gives another number of scores.
    """
    sizes = {size for count in workers for size in _forward_sizes(settings, images, count)}
    for size in sorted({min(2, max(sizes)), 1 if 1 in sizes else 2}, reverse=True):
        what = "one image" if size == 1 else f"{size} images"
        try:
            _try_step(network, settings, classes, size)
        except NetworkError as error:
            alone = f", as the last batch of {images} may hold" if size == 1 and images > 1 else ""
            right = "give a batch-size that leaves no single image over, or a limit" if alone else error.right
            raise NetworkError(f"cannot be trained on {what}{alone}; {error.what}",
                               where=f"network {network.name}", right=right) from None  # fmt: skip


def trainable(network: Network, class_names: Sequence[str], *, named: bool) -> nn.Module:
    """Return a copy of the network to be trained on images of these classes.

    Args:
        network: whose ``fixed`` parameters stay as they are.
        class_names: of the images, in the order of their labels.
        named: whether the weights stand for the network's own class names: where these are the same in another order,
            the scores are put in the images' order. Where that cannot be, a warning shows both orders.

    Raises:
        NetworkError: if no parameter is to be trained.
    """
    module = copy_module(network.module)
    for name, weights in module.named_parameters():
        weights.requires_grad_(weights.is_floating_point() and name not in network.fixed)
    if not any(weights.requires_grad for weights in module.parameters()):
        raise NetworkError("has no parameter to train, all are fixed", where=f"network {network.name}",
                           right="leave requires_grad on in its factory")  # fmt: skip
    own, wanted = network.class_names, tuple(class_names)
    if named and _is_moved(own, wanted):
        # Of a name that stands twice nobody knows which score is meant.
        order = [own.index(name) for name in wanted] if sorted(own) == sorted(wanted) else []
        if len(set(order)) < len(own) or not _put_in_order(module, network, order):
            _warn_of_order(network.name, own, wanted)
    return module


def _is_moved(own: Sequence[str], wanted: Sequence[str]) -> bool:
    """Say whether a class of the images, in letters of either case, has another index among the network's own."""
    known, names = ([name.casefold() for name in names] for names in (own, wanted))
    return any(name in known and known[index : index + 1] != [name] for index, name in enumerate(names))


def _put_in_order(module: nn.Module, network: Network, order: Sequence[int]) -> bool:
    """Put the scores in another order, by the rows of the layer that gives them; say whether there is such a layer."""
    draw = torch.Generator().manual_seed(0)
    like = first_real(module)
    images = [torch.randn(1, *network.input_shape, generator=draw).to(like) for _ in range(3)]
    layers = [
        layer for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.shape[0] == len(order)
    ]  # fmt: skip
    index = list(order)
    with torch.no_grad():
        before = torch.cat([network.module(image) for image in images])
        close = 1e-5 * float(before.abs().max())
        for layer in reversed(layers):
            rows = [values for values in (layer.weight, layer.bias) if values is not None]
            for values in rows:
                values.copy_(values[index])
            after = torch.cat([module(image) for image in images])
            if torch.allclose(after, before[:, index], rtol=1e-4, atol=close):
                return True
            for values in rows:
                values[index] = values.clone()
    return False


def _warn_of_order(name: str, own: Sequence[str], wanted: Sequence[str]) -> None:
    if rank_and_processes()[0]:
        return  # the first process says it for all
    log.warning("network %s: its classes are in the order %s, those of the images in the order %s: "
                "some start with the scores of others", name, first_of(own), first_of(wanted))  # fmt: skip


def _try_step(network: Network, settings: TrainingSettings, classes: int, size: int) -> None:
    module = trainable(network, (), named=False)
    make_ready(module, torch.device("cpu"))
    scorer = make_scorer(network.mean, network.std, classes, settings.precision, module)
    shape = (size, *network.input_shape)
    images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.random.fork_rng(devices=[]):
        scores = scorer.scores(module.train(), images)
        try:
            scores.float().sum().backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            what = f"its backward fails ({type(error).__name__}: {error})"
            raise NetworkError(what, where="", right="change in place only what autograd does not need") from None


def _forward_sizes(settings: TrainingSettings, images: int, workers: int) -> set[int]:
    """Return the numbers of images that a worker may compute at once."""
    batches = {min(settings.batch_size, images), images % settings.batch_size}
    shares = {size for batch in batches for size in (batch // workers, -(-batch // workers)) if size}
    part = settings.micro_batch
    if part is None:
        return shares
    return {size for share in shares for size in (min(share, part), share % part) if size}


def _check_labels(images: ImageSource, kind: str, classes: int) -> None:
    where = f"data {images.name}"
    if not len(images):
        raise DataError(f"there are no {kind} images", where=where, right="give some")
    wrong = (images.labels < -1) | (images.labels >= classes)
    if wrong.any():
        index = int(wrong.nonzero()[0])
        what = f"label {int(images.labels[index])} of {kind} image {index} is out of range"
        raise DataError(what, where=where, right=f"give labels from 0 to {classes - 1}, or -1 for none")


def _sizes(scores: torch.Tensor) -> str:
    return "x".join(map(str, scores.shape[1:])) or "no"
