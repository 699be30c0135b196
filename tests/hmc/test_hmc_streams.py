"""Random numbers by name: the same for the same name, whoever else draws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.hmc import Streams

SHAPE = (1, 5, 7)
NAMES = st.lists(st.text("ab01:/@,", min_size=1, max_size=6), min_size=1, max_size=4, unique=True)


def drawn(streams, iteration, shape=SHAPE):
    noise = streams.noise(iteration, shape)
    rows = [streams.start(shape), noise.momentum, noise.acceptance[:, None], noise.jitter[:, None]]
    return torch.cat([part.flatten(1) for part in rows], dim=1)


def test_equal_keys_draw_equal_numbers():
    assert torch.equal(drawn(Streams(("7/ip2:3",), 4), 11), drawn(Streams(("7/ip2:3",), 4), 11))


@settings(max_examples=40, deadline=None)
@given(NAMES, st.integers(1, 5), st.integers(0, 10_000), st.randoms())
def test_a_nodes_numbers_depend_neither_on_the_other_nodes_nor_on_their_order(names, chains, iteration, random):
    shuffled = random.sample(names, len(names))
    together = drawn(Streams(tuple(shuffled), chains), iteration).view(len(names), chains, -1)
    for index, name in enumerate(shuffled):
        assert torch.equal(together[index], drawn(Streams((name,), chains), iteration))


def test_numbers_do_not_depend_on_what_was_drawn_before_or_on_the_global_generator():
    fresh, used = Streams(("a",), 3), Streams(("a",), 3)
    torch.manual_seed(99)
    drawn(used, 4)
    state = torch.get_rng_state()
    assert torch.equal(drawn(used, 5), drawn(fresh, 5))
    assert torch.equal(torch.get_rng_state(), state)


def test_other_keys_iterations_purposes_and_chains_draw_other_numbers():
    shape = (6,)
    streams = [Streams((name,), 3) for name in ("0/ip2:1", "1/ip2:1", "0/ip2:11", "0/ip2:1@0,1")]
    momenta = [part.noise(iteration, shape).momentum for part in streams for iteration in range(50)]
    starts = [part.start(shape) for part in streams]
    rows = torch.cat(momenta + starts)
    assert len(torch.unique(rows, dim=0)) == len(rows)
    uniform = torch.cat([
        torch.stack([noise.acceptance, noise.jitter])
        for part in streams for noise in (part.noise(iteration, shape) for iteration in range(50))
    ])  # fmt: skip
    assert len(torch.unique(uniform, dim=0)) == len(uniform)


def test_a_key_and_an_iteration_cannot_be_taken_for_another_pair():
    assert not torch.equal(Streams(("a|1",), 1).noise(2, (4,)).momentum, Streams(("a",), 1).noise(12, (4,)).momentum)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_momenta_are_standard_normal_and_the_rest_is_uniform(dtype):
    noise = [Streams(("a", "b"), 50, dtype=dtype).noise(iteration, (40,)) for iteration in range(50)]
    normal = torch.stack([part.momentum for part in noise]).double()
    assert normal.dtype == torch.float64 and noise[0].momentum.dtype == dtype
    count = normal.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert normal.pow(power).mean().item() == pytest.approx(moment, abs=5 * (variance / count) ** 0.5)
    pairs = normal[:-1].flatten(), normal[1:].flatten()
    assert (pairs[0] * pairs[1]).mean().abs() < 5 / len(pairs[0]) ** 0.5
    for name in ("acceptance", "jitter"):
        uniform = torch.stack([getattr(part, name) for part in noise]).double()
        assert uniform.min() >= 0
        assert uniform.max() < 1
        assert uniform.mean().item() == pytest.approx(0.5, abs=5 * (1 / 12 / uniform.numel()) ** 0.5)
        assert uniform.var().item() == pytest.approx(1 / 12, abs=5 * (1 / 180 / uniform.numel()) ** 0.5)
    both = torch.stack([torch.stack([part.acceptance, part.jitter]) for part in noise]).double() - 0.5
    assert both.prod(1).mean().abs() < 5 / 12 / (both.numel() / 2) ** 0.5


def test_the_chains_of_a_node_are_independent():
    rows = Streams(("a",), 3).start((20_000,)).double()
    correlation = torch.corrcoef(rows) - torch.eye(3)
    assert correlation.abs().max() < 5 / 20_000**0.5
