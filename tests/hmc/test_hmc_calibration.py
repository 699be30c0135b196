"""Simulation-based calibration, and kernels that must agree where no closed form is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raygen.hmc import HmcSettings, Streams, begin, draw, warm_up
from raygen.networks import NetworkSettings, NodeScores, cut_network, load_network
from raygen.tilting import FixedTilt, WhitenedScore, WhiteNoise

KERNELS = ("rotation", "leapfrog", "langevin")
NOISE = 0.3


class Likelihood:
    """f(z) = log p(y | z) of y = tanh(z_1) + z_2 / 2 + noise: tilted by it, N(0, I) becomes the posterior of z."""

    cheap_forces = False

    def __init__(self, observed: Tensor) -> None:
        self.observed = observed

    def value(self, z: Tensor) -> Tensor:
        return -0.5 * ((self.observed - signal(z)) / NOISE).square()

    def gradient(self, z: Tensor) -> Tensor:
        return self.value_and_gradient(z)[1]

    def value_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        leaf = z.detach().requires_grad_()
        value = self.value(leaf)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def signal(z: Tensor) -> Tensor:
    return z[:, 0].tanh() + 0.5 * z[:, 1]


def ranked(z: Tensor) -> Tensor:
    """Return what is ranked: both coordinates, and the one function of them that the data determine best."""
    return torch.cat([z, signal(z)[:, None]], dim=1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_truth_ranks_uniformly_among_posterior_draws(kernel):
    simulations, draws = 4000, 19
    prior = Streams(("truth",), simulations, dtype=torch.float64)
    truth = prior.start((2,))
    observed = signal(truth) + NOISE * prior.noise(0, (2,)).momentum[:, 0]
    score = Likelihood(observed)
    settings, thin = HmcSettings(kernel=kernel, warm_up=60, anneal=0.0), 12 if kernel == "langevin" else 4
    made, plan = settings.make_kernel(), settings.make_warm_up()
    streams = Streams(("posterior",), simulations, dtype=torch.float64)
    state = made.init(score, streams.start((2,)))
    rule = FixedTilt(torch.ones(1, dtype=torch.float64))
    state, parameters = warm_up(plan, made, score, streams, begin(plan, made, state, rule))
    ranks = torch.zeros(simulations, 3, dtype=torch.int64)

    def on_step(count, state, info):
        if count % thin == 0:
            ranks.add_((ranked(state.position) < ranked(truth)).long())

    draw(made, score, state, parameters, streams, first=60, iterations=draws * thin, on_step=on_step)
    for axis in range(3):
        counts = torch.bincount(ranks[:, axis], minlength=draws + 1).double()
        expected = simulations / (draws + 1)
        chi_square = float(((counts - expected).square() / expected).sum())
        assert chi_square < 43.8  # 99.9 % of chi-square with 19 degrees of freedom


def test_all_kernels_agree_on_a_node_of_a_real_network():
    network = load_network(NetworkSettings(weights="random"))
    cut = cut_network(network, "conv2")
    chains = 96
    score = WhitenedScore(NodeScores(cut, torch.full((chains,), 7)), WhiteNoise(cut.input_shape, 2.0))
    found = {}
    for kernel in KERNELS:
        settings = HmcSettings(kernel=kernel, steps=4, warm_up=80)
        made, plan = settings.make_kernel(), settings.make_warm_up()
        streams = Streams((f"agree {kernel}",), chains)
        start = made.init(score, streams.start(cut.input_shape))
        state, parameters = warm_up(
            plan, made, score, streams, begin(plan, made, start, FixedTilt(torch.tensor([2.0])))
        )
        _, trace = draw(made, score, state, parameters, streams, first=80,
                        iterations=160 if kernel == "langevin" else 60, on_step=lambda *_: None)  # fmt: skip
        means = trace.score.mean(0).double()  # of each chain: chains are independent
        found[kernel] = float(means.mean()), float(means.std()) / chains**0.5
    (rotation, error), *others = found.values()
    assert rotation > 1.0 > 4 * error  # the tilt has moved it away from the reference's mean, 0
    for mean, other_error in others:
        assert abs(mean - rotation) < 4 * (error**2 + other_error**2) ** 0.5
