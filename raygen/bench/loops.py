"""What ``raygen bench sampler`` runs: the sampler, the same evaluations bare, and the plain network."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raygen.errors import SettingsError
from raygen.hmc import Kernel, Parameters, Streams
from raygen.networks import Network, NetworkSettings, NodeScores, cut_network, list_layers, load_network
from raygen.tilting import WhitenedScore, WhiteNoise

STEPS = 8
"""Gradients of a trajectory."""

Work = Callable[[], float]
"""Does its work and returns how much it made."""

_SECONDS = 1.0
_MOST = 3
"""Trajectories of one measurement: as many as the plain network makes in so many seconds, at least one."""


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_device(name: str) -> torch.device:
    """Return the device.

    Raises:
        SettingsError: if it is CUDA and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("there is no CUDA device", where="device cuda", right="give --device cpu")
    return torch.device(name)


@dataclass(frozen=True)
class Loops:
    """Chains of a network's classes, and the loops over them.

    Attributes:
        network: on the device.
        scores: of the classes in turn, one for each chain.
        device: where all runs.
        trajectories: of one measurement.
    """

    network: Network
    scores: NodeScores
    device: torch.device
    trajectories: int = 1

    @classmethod
    def of(cls, settings: NetworkSettings, batch: int, device: torch.device) -> Loops:
        """Return the loops of ``batch`` chains.

        Raises:
            NetworkError, WeightsError: as ``load_network`` does.
        """
        network = load_network(settings)
        layer = next((layer for layer in list_layers(network) if layer.is_classes), list_layers(network)[-1])
        scores = NodeScores(cut_network(network, layer.name), torch.arange(batch) % layer.channels).to(device)
        network.module.to(device)
        return cls(network, scores, device)

    def sampler(self, force: NodeScores | None) -> Work:
        """Return the sampler, with these forces or else float32, on white noise."""
        shape, chains = self.scores.input_shape, len(self.scores.channels)
        target = WhitenedScore(self.scores, WhiteNoise(shape, 10.0).to(self.device), force=force)
        kernel = Kernel(steps=STEPS)
        # Eight chains a node where that divides the batch.
        of_node = math.gcd(chains, 8)
        streams = Streams(tuple(map(str, range(chains // of_node))), of_node, self.device)
        state = kernel.init(target, streams.start(shape))
        step_size, tilt = torch.full((chains,), 0.05), torch.ones(chains)
        parameters = Parameters(step_size.to(self.device), tilt.to(self.device))

        def trajectory(iteration: int) -> None:
            nonlocal state
            state, _ = kernel.step(state, parameters, target, streams.noise(iteration, shape))

        return self._repeat(trajectory)

    def bare(self, force: NodeScores | None) -> Work:
        """Return a loop of the same evaluations as the sampler's, on one batch of images, and nothing else."""
        x = self.images()

        def trajectory(_: int) -> None:
            for _ in range(STEPS):
                gradient(force or self.scores, x)
            if force is not None:
                with torch.no_grad():
                    self.scores(x)

        return self._repeat(trajectory)

    def gradients(self, score: Callable[[Tensor], Tensor]) -> Work:
        """Return a loop of gradients of ``score`` alone."""
        x = self.images()

        def trajectory(_: int) -> None:
            for _ in range(STEPS):
                gradient(score, x)

        return self._repeat(trajectory)

    def plain(self, images: Tensor) -> Tensor:
        """Return the scores by the whole network as it is, in contiguous float32: what a first attempt would run."""
        output: Tensor = self.network.module(images)
        return output.flatten(1).gather(1, self.scores.channels[:, None])

    def images(self) -> Tensor:
        """Return a batch of white noise."""
        generator = torch.Generator().manual_seed(0)
        images = 10 * torch.randn((len(self.scores.channels), *self.scores.input_shape), generator=generator)
        return images.to(self.device)

    def counted(self) -> int:
        """Return how many trajectories one measurement should have."""
        x = self.images()
        for _ in range(2):
            start = time.perf_counter()
            gradient(self.plain, x)
            self.wait()
        return max(1, min(_MOST, int(_SECONDS / STEPS / (time.perf_counter() - start))))

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _repeat(self, trajectory: Callable[[int], None]) -> Work:
        def run() -> float:
            for iteration in range(self.trajectories):
                trajectory(iteration)
            self.wait()
            return float(len(self.scores.channels) * STEPS * self.trajectories)

        return run


def gradient(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient of the sum of the scores of ``x``."""
    leaf = x.detach().requires_grad_()
    (found,) = torch.autograd.grad(score(leaf).sum(), leaf)
    return found
