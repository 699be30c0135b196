"""Weights of chains while the tilt rises: how many copies a chain gets, and modes that come out with their shares."""

from dataclasses import replace

import pytest
import torch
from hmc_targets import Target, streams
from hypothesis import given
from hypothesis import strategies as st

from raygen.hmc import Kernel, Population, WarmUp, advance, begin, rebuild, select, to_tensors
from raygen.hmc.warmup import TiltRule
from raygen.tilting import FixedTilt


@given(st.lists(st.floats(0, 50), min_size=1, max_size=12), st.floats(0, 1, exclude_max=True))
def test_a_chain_has_as_many_copies_as_its_weight_says_rounded_up_or_down_and_survivors_stay(logs, uniform):
    weights = torch.tensor(logs, dtype=torch.float64)
    population, chosen = Population(weights, torch.arange(len(logs))).select(torch.tensor([uniform]))
    share = weights.softmax(0)
    worth = 1 / share.square().sum()
    if chosen is None:
        assert worth >= len(logs) / 2 - 1e-9
        return
    counts = torch.bincount(chosen, minlength=len(logs))
    assert ((counts - len(logs) * share).abs() < 1 + 1e-6).all()
    alive = counts > 0
    assert torch.equal(chosen[alive], torch.arange(len(logs))[alive])
    assert torch.equal(population.ancestor, chosen) and not population.log_weight.any()


def test_only_the_nodes_whose_weights_are_uneven_are_drawn_anew():
    weights = torch.tensor([0.0, 0.1, 0.0, 0.1, 0.0, 0.0, 0.0, 9.0], dtype=torch.float64)
    population, chosen = Population.begin(torch.zeros(8), 2).weigh(weights, torch.ones(8)).select(torch.rand(2))
    assert chosen.tolist() == [0, 1, 2, 3, 7, 7, 7, 7]
    assert population.ancestor.tolist() == [0, 1, 2, 3, 3, 3, 3, 3]
    assert torch.equal(population.log_weight, torch.where(torch.arange(8) < 4, weights, 0.0))


def two_valleys(near, far, lead):
    """f = log of two narrow peaks at ``near`` and ``far`` on the first axis; that of ``far`` higher by ``lead``."""

    def value(z):
        peaks = torch.stack([-20 * (z[:, 0] - near) ** 2, lead - 20 * (z[:, 0] - far) ** 2])
        return peaks.logsumexp(0)

    def gradient(z):
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            return torch.autograd.grad(value(leaf).sum(), leaf)[0]

    return Target(value, gradient)


def warmed(plan, chains, target):
    kernel, flow = Kernel(steps=8), streams(chains, "one", "two")
    state = begin(plan, kernel, kernel.init(target, flow.start((1,))), FixedTilt(torch.ones(2, dtype=torch.float64)))
    states = [state]
    while state.iteration < plan.iterations:
        state, _ = advance(plan, kernel, target, flow, state)
        states.append(state)
    return states


def test_modes_come_out_with_their_shares_where_chains_alone_stay_where_they_fell():
    # Peaks of one width at -1 and 1, where the reference is as high; exp(3) between them.
    target, chains = two_valleys(-1.0, 1.0, 3.0), 400
    share = 1 / (1 + torch.tensor(-3.0).exp())
    for resample, right in ((False, False), (True, True)):
        last = warmed(WarmUp(60, resample=resample), chains, target)[-1]
        found = (last.chains.position[:, 0] > 0).double().mean()
        assert (abs(found - share) < 0.04) == right


def test_a_selection_depends_on_the_node_and_the_iteration_alone_and_is_saved():
    target, plan = two_valleys(-1.0, 1.0, 3.0), WarmUp(30, resample=True)
    states = warmed(plan, 16, target)
    again = rebuild(type(states[12]), to_tensors(states[12]), torch.device("cpu"), {TiltRule: FixedTilt})
    kernel, flow = Kernel(steps=8), streams(16, "one", "two")
    while again.iteration < plan.iterations:
        again, _ = advance(plan, kernel, target, flow, again)
    assert torch.equal(again.chains.position, states[-1].chains.position)
    assert torch.equal(again.population.ancestor, states[-1].population.ancestor)
    assert len(set(again.population.ancestor.tolist())) < 16


def uneven(plan, chains, iteration, logs):
    """Two states of chains of two nodes, one trajectory apart, whose weights ask for a drawing anew."""
    target, flow = two_valleys(-1.0, 1.0, 6.0), streams(chains, "one", "two")
    kernel = Kernel(steps=8)
    state = begin(plan, kernel, kernel.init(target, flow.start((1,))), FixedTilt(torch.ones(2, dtype=torch.float64)))
    sizes = replace(state.step_size, log_step=-torch.arange(len(state.step_size.log_step), dtype=torch.float64))
    weights = Population(torch.tensor(logs, dtype=torch.float64).repeat(2), state.population.ancestor)
    before = replace(state, iteration=iteration, step_size=sizes, population=weights)
    return flow, before, replace(before, iteration=iteration + 1)


@pytest.mark.parametrize("each_chain", [False, True])
def test_a_copy_takes_the_step_size_of_its_chain_where_each_has_its_own(each_chain):
    plan = WarmUp(30, resample=True, each_chain=each_chain, anneal=0.0)
    flow, before, after = uneven(plan, 4, 5, [0.0, 0.0, 50.0, 0.0])
    found = select(plan, before, after, flow)
    assert torch.equal(found.chains.position, before.chains.position[[2, 2, 2, 2, 6, 6, 6, 6]])
    assert found.population.ancestor.tolist() == [2] * 8
    assert found.step_size.log_step.tolist() == ([-2.0] * 4 + [-6.0] * 4 if each_chain else [0.0, -1.0])


def test_each_iteration_and_node_has_its_own_drawing_anew():
    plan, found = WarmUp(30, resample=True, anneal=0.0), []
    for iteration in range(8):
        flow, before, after = uneven(plan, 4, iteration, [0.0, 1.2, 2.4, 3.6])
        expected, _ = before.population.select(flow.selection(iteration))
        found.append(select(plan, before, after, flow).population.ancestor.tolist())
        assert found[-1] == expected.ancestor.tolist()
    assert len({tuple(ancestors[:4]) for ancestors in found}) > 1
    assert any(ancestors[:4] != ancestors[4:] for ancestors in found)
