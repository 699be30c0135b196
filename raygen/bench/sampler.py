"""``raygen bench sampler``: what the sampler costs beside the network's own evaluations, and what cheap forces gain."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from pydantic import Field
from torch import Tensor

from raygen.bench.results import Result, compare
from raygen.hmc import Kernel, Parameters, Streams
from raygen.networks import Network, NetworkSettings, NodeScores, cut_network, list_layers, load_network
from raygen.sampling import keep_freed_memory
from raygen.tilting import WhitenedScore, WhiteNoise

_STEPS = 8
_TRAJECTORIES = 3
"""Of one measurement: about half a second of LeNet on one core."""


class SamplerBenchSettings(NetworkSettings):
    """What ``raygen bench sampler`` measures."""

    weights: str | None = Field("random", description='weight file, or "random": the speed is the same')
    batch: int = Field(256, ge=1, description="chains")
    rounds: int = Field(9, ge=1, description="counted rounds; their median is told")
    threads: int = Field(1, ge=1, description="CPU threads")


def bench_sampler(settings: SamplerBenchSettings) -> Iterator[Result]:
    """Yield the sampler against a bare loop of the same evaluations, and cheap forces against plain float32."""
    torch.set_num_threads(settings.threads)
    keep_freed_memory()
    network = load_network(settings)
    scores = _class_scores(network, settings.batch)
    cheap = scores.with_precision("bfloat16")
    name = f"{network.name} batch {settings.batch}"
    yield compare("sampler", f"{name}, float32, against a bare loop", _sampler(scores, None),
                  _bare_loop(scores, None), rounds=settings.rounds)  # fmt: skip
    yield compare("sampler", f"{name}, bfloat16 forces, against a bare loop", _sampler(scores, cheap),
                  _bare_loop(scores, cheap), rounds=settings.rounds)  # fmt: skip
    yield compare("sampler", f"{name}, bfloat16 forces, against the plain network in float32", _sampler(scores, cheap),
                  _plain_loop(network, scores), rounds=settings.rounds)  # fmt: skip


def _class_scores(network: Network, batch: int) -> NodeScores:
    layer = next((layer for layer in list_layers(network) if layer.is_classes), list_layers(network)[-1])
    channels = torch.arange(batch) % layer.channels
    return NodeScores(cut_network(network, layer.name), channels)


def _sampler(scores: NodeScores, force: NodeScores | None) -> Callable[[], float]:
    shape = scores.cut.input_shape
    chains = len(scores.channels)
    target = WhitenedScore(scores, WhiteNoise(shape, 10.0), force=force)
    kernel, streams = Kernel(steps=_STEPS), Streams(tuple(map(str, range(-(-chains // 8)))), 8)
    state = kernel.init(target, streams.start(shape)[:chains])
    parameters = Parameters(torch.full((chains,), 0.05), torch.ones(chains))

    def run() -> float:
        now = state
        for iteration in range(_TRAJECTORIES):
            now, _ = kernel.step(now, parameters, target, streams.noise(iteration, shape))
        return chains * _STEPS * _TRAJECTORIES

    return run


def _bare_loop(scores: NodeScores, force: NodeScores | None) -> Callable[[], float]:
    """Return a loop of the same evaluations as the sampler's, on one batch of images, and nothing else."""
    x = _images(scores)

    def run() -> float:
        for _ in range(_TRAJECTORIES):
            for _ in range(_STEPS):
                _gradient(force or scores, x)
            if force is not None:
                with torch.no_grad():
                    scores(x)
        return len(x) * _STEPS * _TRAJECTORIES

    return run


def _plain_loop(network: Network, scores: NodeScores) -> Callable[[], float]:
    """Return a loop over the whole network as it is, in contiguous float32: what a first attempt would run."""
    x, channels = _images(scores), scores.channels[:, None]

    def plain(images: Tensor) -> Tensor:
        output: Tensor = network.module(images)
        return output.flatten(1).gather(1, channels)

    def run() -> float:
        for _ in range(_TRAJECTORIES * _STEPS):
            _gradient(plain, x)
        return len(x) * _STEPS * _TRAJECTORIES

    return run


def _images(scores: NodeScores) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 10 * torch.randn((len(scores.channels), *scores.cut.input_shape), generator=generator)


def _gradient(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(score(leaf).sum(), leaf)
    return gradient
