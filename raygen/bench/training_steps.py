"""Training steps on random images: raygen's, and those of a first attempt in plain PyTorch."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from raygen.data import Batch
from raygen.networks import NetworkSettings, load_network
from raygen.training import (
    GradientBuffer,
    Precision,
    Recipe,
    Tally,
    TrainingSettings,
    make_optimiser,
    make_ready,
    make_scorer,
    set_rate,
    training_step,
)

Work = Callable[[], float]
"""Does its work and returns how many images it took."""

_CPU = torch.device("cpu")
_RATE = 1e-4
"""Small, so that all loops stay in the range of an untrained network."""


class Steps:
    """Loops of training steps on the same random images, one thread each.

    Args:
        network: its name.
        batch: images of a step.
        number: steps of a measurement.
    """

    def __init__(self, network: str, batch: int, number: int) -> None:
        torch.set_num_threads(1)
        self.network = load_network(_untrained(network))
        self.batch = batch
        generator = torch.Generator().manual_seed(0)
        self.classes = len(self.network.class_names) or 1000
        n = batch * number
        self.images = torch.randint(0, 256, (n, *self.network.input_shape), dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(0, self.classes, (n,), generator=generator)

    def module(self) -> nn.Module:
        """Return a network of its own to train."""
        return load_network(_untrained(self.network.name)).module.requires_grad_(True).train()

    def ours(self, precision: Precision, weight: float) -> Work:
        """Return raygen's loop, with this weight of the generative loss."""
        module = self._ready()
        optimiser = make_optimiser(module, TrainingSettings.parse({}, where="bench"))
        gradients = GradientBuffer(module.parameters())
        scorer = make_scorer(self.network.mean, self.network.std, self.classes, precision, module)
        recipe = Recipe(weight, scorer)

        def run() -> float:
            tally = Tally(self.classes, _CPU)
            for rows in self._order():
                set_rate(optimiser, _RATE)
                batch = Batch(self.images[rows], self.labels[rows])
                found = training_step(module, batch, recipe, gradients=gradients, optimiser=optimiser)
                tally.add(found, len(rows))
            return float(tally.total(1.0).images)

        return run

    def cross_entropy(self, precision: Precision) -> Work:
        """Return raygen's loop with the library's cross entropy, without diagnostics of the importance weights."""
        module = self._ready()
        optimiser = make_optimiser(module, TrainingSettings.parse({}, where="bench"))
        gradients = GradientBuffer(module.parameters())
        scorer = make_scorer(self.network.mean, self.network.std, self.classes, precision, module)

        def run() -> float:
            for rows in self._order():
                set_rate(optimiser, _RATE)
                gradients.zero()
                scores = scorer.scores(module, self.images[rows]).float()
                functional.cross_entropy(scores, self.labels[rows]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            return float(len(self.labels))

        return run

    def _ready(self) -> nn.Module:
        module = self.module()
        make_ready(module, _CPU)
        return module

    def _order(self) -> tuple[torch.Tensor, ...]:
        split: tuple[torch.Tensor, ...] = torch.randperm(len(self.labels)).split(self.batch)  # type: ignore[no-untyped-call]
        return split


def _untrained(network: str) -> NetworkSettings:
    return NetworkSettings.parse({"network": network, "weights": "random"}, where="bench")


@contextmanager
def plain_loop(network: str, batch: int, number: int) -> Iterator[Work]:
    """Give the loop that everyone writes first, cross entropy in contiguous float32, on the images of :class:`Steps`.

    It runs in a process of its own, which returns freed memory to the system, as everyone's does.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(network, batch, number)) as pool:
        yield lambda: pool.submit(_go_on).result()


_plain: list[Work] = []
"""Of the process: its loop."""


def _begin(network: str, batch: int, number: int) -> None:
    _plain.append(make_plain_loop(Steps(network, batch, number)))


def _go_on() -> float:
    return _plain[0]()


def make_plain_loop(steps: Steps) -> Work:
    """Return the loop of ``plain_loop``, in this process."""
    module = steps.module().to(memory_format=torch.contiguous_format)
    optimiser = torch.optim.SGD(module.parameters(), lr=_RATE, momentum=0.9, weight_decay=5e-4)
    mean, std = (torch.tensor(values)[:, None, None] for values in (steps.network.mean, steps.network.std))

    def run() -> float:
        order = torch.randperm(len(steps.labels))
        for start in range(0, len(order), steps.batch):
            rows = order[start : start + steps.batch]
            images = (steps.images[rows].float() / 255 - mean) / std
            optimiser.zero_grad()
            functional.cross_entropy(module(images), steps.labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return float(len(order))

    return run
