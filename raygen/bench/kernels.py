"""``raygen bench kernels``: the default kernel against the paper's leapfrog; white noise of sigma 10, a tilt of 1."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from raygen.bench.results import Result
from raygen.bench.settings import KernelsBenchSettings
from raygen.data import DataSettings, load_data
from raygen.hmc import (
    ChainState,
    HmcSettings,
    Parameters,
    StepInfo,
    Streams,
    Trace,
    WarmUpState,
    begin,
    diagnose,
    draw,
    warm_up,
)
from raygen.networks import Network, NodeScores, cut_network, list_layers, load_network, wrap_network
from raygen.sampling import SamplingSettings
from raygen.tilting import FixedTilt, WhitenedScore, WhiteNoise
from raygen.training import TrainingSettings, train

_SHARE = 0.95
"""Of the stationary mean score: where a kernel counts as arrived."""

_FEWER = 200
"""The paper's kernel is given up at so many times the default's gradients: then the ratio is at least this."""


def bench_kernels(settings: KernelsBenchSettings) -> Iterator[Result]:
    """Yield gradients until 95 % of the stationary mean score, and ESS of the score per 1,000 gradients there."""
    torch.set_num_threads(settings.threads)
    network = _network(settings)
    default = HmcSettings.parse({}, where="bench")
    paper = SamplingSettings.parse({"preset": "paper-lenet"}, where="bench")
    chains = settings.chains
    target, classes = _target(network, chains)
    streams = Streams(tuple(f"{settings.seed}/{row}" for row in range(chains)), 1)
    climb, state, parameters = _warm_up(default, target, streams, classes)
    state, trace = draw(
        default.make_kernel(), target, state, parameters, streams, first=default.warm_up,
        iterations=settings.trajectories, on_step=lambda count, state, info: None,
    )  # fmt: skip
    level = float(trace.score[settings.trajectories // 2 :].mean())
    arrived = next((gradients for gradients, score in climb if score >= _SHARE * level), climb[-1][0])
    case = f"{network.name}, stationary mean score {level:.0f}"
    yield _arrival(settings, paper, network, case=case, level=level, arrived=arrived)
    steps = torch.full_like(classes, default.steps) if parameters.steps is None else parameters.steps
    ess_rate = _ess_rate(trace, classes, steps)
    bound = _paper_ess_rate(settings, paper, network, trace, state)
    yield Result("kernels", f"{case}: ESS of the score per 1,000 gradients of a chain, paper's at most",
                 ess_rate, "ESS/1000 gradients", bound, ess_rate / bound)  # fmt: skip


def _network(settings: KernelsBenchSettings) -> Network:
    if settings.weights is not None:
        return load_network(settings)
    untrained = load_network(settings.model_copy(update={"weights": "random"}), seed=settings.seed)
    images, test = load_data(DataSettings.parse({}, where="bench"), untrained.input_shape)
    module = copy.deepcopy(untrained.module).requires_grad_(True)
    recipe = TrainingSettings.parse({"epochs": 10, "generative_epochs": 0}, where="bench")
    train(module, images, test, mean=untrained.mean, std=untrained.std, settings=recipe, seed=settings.seed,
          device=torch.device("cpu"))  # fmt: skip
    return wrap_network(module, name=f"{untrained.name} of digits", input_shape=untrained.input_shape,
                        mean=untrained.mean, std=untrained.std, class_names=images.class_names)  # fmt: skip


def _target(network: Network, chains: int) -> tuple[WhitenedScore, Tensor]:
    layer = next(layer for layer in list_layers(network) if layer.is_classes)
    classes = torch.arange(chains) % layer.channels
    scores = NodeScores(cut_network(network, layer.name), classes)
    reference = WhiteNoise(scores.input_shape, 10.0)
    return WhitenedScore(scores, reference, force=scores.with_precision("bfloat16")), classes


def _warm_up(
    settings: HmcSettings, target: WhitenedScore, streams: Streams, classes: Tensor
) -> tuple[list[tuple[float, float]], ChainState, Parameters]:
    """Return the climb (gradients of a chain, mean score), and the chains and parameters at its end."""
    kernel, plan = settings.make_kernel(), settings.make_warm_up()
    start = kernel.init(target, streams.start(target.reference.shape))
    climb: list[tuple[float, float]] = [(0.0, float(start.score.mean()))]

    def note(state: WarmUpState, info: StepInfo) -> None:
        climb.append((climb[-1][0] + float(info.steps.double().mean()), float(state.chains.score.mean())))

    state, parameters = warm_up(
        plan, kernel, target, streams, begin(plan, kernel, start, FixedTilt(torch.ones(len(classes)))), note
    )
    return climb, state, parameters


def _arrival(
    settings: KernelsBenchSettings, paper: HmcSettings, network: Network, *, case: str, level: float, arrived: float
) -> Result:
    kernel, chains = paper.make_kernel(), settings.paper_chains
    target, _ = _target(network, chains)
    streams = Streams(tuple(f"{settings.seed}/paper/{row}" for row in range(chains)), 1)
    state, parameters = kernel.init(target, streams.start(target.reference.shape)), _paper_parameters(paper, chains)
    made = 0
    while made < _FEWER * arrived and float(state.score.mean()) < _SHARE * level:
        state, _ = kernel.step(state, parameters, target, streams.noise(made, target.reference.shape))
        made += kernel.steps
    reached = float(state.score.mean()) / level
    how = "" if reached >= _SHARE else f" (given up at {100 * reached:.0f} %: the ratio is at least this)"
    return Result("kernels", f"{case}: gradients until 95 % of it, the paper's against the default's{how}",
                  made, "gradients", arrived, made / arrived)  # fmt: skip


def _paper_parameters(paper: HmcSettings, chains: int) -> Parameters:
    assert paper.step_size is not None
    return Parameters(torch.full((chains,), paper.step_size), torch.ones(chains))


def _ess_rate(trace: Trace, classes: Tensor, steps: Tensor) -> float:
    """Return the ESS of the score per 1,000 gradients of one chain, mean over the classes."""
    rates = []
    for value in sorted(set(classes.tolist())):
        rows = (classes == value).nonzero()[:, 0]
        part = Trace(trace.score[:, rows], trace.energy[:, rows], trace.projections[:, rows],
                     trace.acceptance[:, rows], trace.diverged[:, rows])  # fmt: skip
        (found,) = diagnose(part, len(rows))
        rates.append(1000 * found.ess_bulk / (len(trace.score) * int(steps[rows].sum())))
    return sum(rates) / len(rates)


def _paper_ess_rate(
    settings: KernelsBenchSettings, paper: HmcSettings, network: Network, trace: Trace, state: ChainState
) -> float:
    """Return an upper bound of the paper's ESS of the score per 1,000 gradients of one chain.

    From the default's stationary draws, by the first autocorrelation r of the score: a reversible chain's effective
    sample size is at most (1 - r) / (1 + r) of its length (Geyer 1992), and 1 - r is the mean squared jump over twice
    the variance.
    """
    kernel, chains = paper.make_kernel(), min(settings.paper_chains, settings.chains)
    target, classes = _target(network, chains)
    now = ChainState(state.position[:chains], state.score[:chains], state.gradient[:chains])
    streams = Streams(tuple(f"{settings.seed}/paper at rest/{row}" for row in range(chains)), 1)
    jumps = []
    parameters, shape = _paper_parameters(paper, chains), target.reference.shape
    for iteration in range(settings.paper_trajectories):
        before = now.score
        now, _ = kernel.step(now, parameters, target, streams.noise(iteration, shape))
        jumps.append((now.score - before).double().square())
    half = trace.score[len(trace.score) // 2 :].double()
    variance = _class_variance(half, torch.arange(half.shape[1]) % (int(classes.max()) + 1))
    slack = float(torch.stack(jumps).mean()) / (2 * variance)  # 1 - r
    return 1000 / kernel.steps * slack / (2 - slack)


def _class_variance(scores: Tensor, classes: Tensor) -> float:
    """Return the variance of the score within a class, all chains of the class together, mean over classes."""
    values = [scores[:, classes == value].var() for value in sorted(set(classes.tolist()))]
    return float(torch.stack(values).mean())
