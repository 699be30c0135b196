"""Chains put down and taken up again: the same to the bit, through a file, in another process's hands."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from hmc_targets import ridges, streams
from safetensors.torch import load, save
from torch import Tensor

from raygen.errors import StoreError
from raygen.hmc import (
    CONSTANT,
    ON_CPU,
    ChainState,
    Kernel,
    Parameters,
    TiltRule,
    WarmUp,
    WarmUpState,
    begin,
    check_alike,
    draw,
    rebuild,
    to_tensors,
    warm_up,
)


@dataclass(frozen=True)
class Steered:
    """A tilt rule that depends on where the chains are."""

    tilt: Tensor
    note: str = field(default="no number and no tensor", metadata=CONSTANT)
    large: Tensor = field(default_factory=lambda: torch.zeros(10), metadata=CONSTANT)

    def observe(self, gradient):
        found = gradient.flatten(1).norm(dim=1).view(len(self.tilt), -1).mean(1)
        return replace(self, tilt=0.9 * self.tilt + 0.1 / found)


KERNEL, PLAN = Kernel(steps=6), WarmUp(20, angle=1.2, chees=True, each_chain=True)


def begun(chains=3):
    noise, target = streams(chains, "0", "1"), ridges(4)
    return begin(PLAN, KERNEL, KERNEL.init(target, noise.start((4,))), Steered(torch.ones(2, dtype=torch.float64)))


CPU = torch.device("cpu")
GIVEN = {TiltRule: Steered}


def through_a_file(state):
    return load(save(to_tensors(state)))


@pytest.mark.parametrize("stop", [0, 1, 13, 19])
def test_warm_up_goes_on_from_a_file_as_if_nothing_had_been(stop):
    noise, target = streams(3, "0", "1"), ridges(4)
    states = [begun()]
    whole, found = warm_up(PLAN, KERNEL, target, noise, begun(), lambda state, info: states.append(state))
    taken_up = rebuild(WarmUpState, through_a_file(states[stop]), CPU, GIVEN)
    check_alike(taken_up, begun())
    assert taken_up.iteration == stop and isinstance(taken_up.iteration, int) and taken_up.rule.note
    again, parameters = warm_up(PLAN, KERNEL, target, noise, taken_up)
    assert torch.equal(again.position, whole.position) and torch.equal(again.gradient, whole.gradient)
    for name in ("step_size", "tilt", "steps"):
        assert torch.equal(getattr(parameters, name), getattr(found, name))


@pytest.mark.parametrize("stop", [1, 7])
def test_draws_go_on_from_a_file_as_if_nothing_had_been(stop):
    noise, target = streams(3, "0", "1"), ridges(4)
    state, known = warm_up(PLAN, KERNEL, target, noise, begun())
    whole, trace = draw(KERNEL, target, state, known, noise, first=20, iterations=10, on_step=lambda *_: None)
    half, before = draw(KERNEL, target, state, known, noise, first=20, iterations=stop, on_step=lambda *_: None)
    taken_up, parameters = (rebuild(type(value), through_a_file(value), CPU) for value in (half, known))
    assert isinstance(taken_up, ChainState) and isinstance(parameters, Parameters)
    end, after = draw(KERNEL, target, taken_up, parameters, noise, first=20 + stop, iterations=10 - stop,
                      on_step=lambda *_: None)  # fmt: skip
    assert torch.equal(end.position, whole.position) and torch.equal(end.gradient, whole.gradient)
    for name in ("score", "energy", "projections", "acceptance", "diverged", "potential"):
        assert torch.equal(torch.cat([getattr(before, name), getattr(after, name)]), getattr(trace, name))


def test_the_state_of_other_chains_is_refused_by_name():
    with pytest.raises(StoreError, match=r"chains\.position"):
        check_alike(rebuild(WarmUpState, to_tensors(begun(2)), CPU, GIVEN), begun(3))


def test_what_never_changes_is_not_saved():
    assert "rule.tilt" in to_tensors(begun()) and "rule.large" not in to_tensors(begun())


def test_a_torn_state_is_refused_by_name():
    tensors = to_tensors(begun())
    del tensors["step_size.log_average"]
    with pytest.raises(StoreError, match=r"step_size\.log_average"):
        rebuild(WarmUpState, tensors, CPU, GIVEN)


def test_what_is_left_over_is_named():
    tensors = to_tensors(begun()) | {"step_size.other": torch.zeros(1), "chains.score.0": torch.zeros(1)}
    with pytest.raises(StoreError, match=r"chains\.score\.0, step_size\.other"):
        rebuild(WarmUpState, tensors, CPU, GIVEN)


@dataclass(frozen=True)
class Nested:
    chains: ChainState
    count: int
    large: float
    steps: Tensor | None = None


@pytest.mark.parametrize("steps", [None, torch.tensor([3, 4])])
def test_a_state_is_rebuilt_without_a_template(steps):
    chains = ChainState(*(torch.randn((2, 3), generator=torch.Generator().manual_seed(seed)) for seed in range(3)))
    state = Nested(chains, 2**60 + 1, 0.1, steps)
    again = rebuild(Nested, through_a_file(state), torch.device("cpu"))
    assert (again.count, again.large) == (2**60 + 1, 0.1)
    for name in ("position", "score", "gradient"):
        assert torch.equal(getattr(again.chains, name), getattr(chains, name))
    assert again.steps is None if steps is None else torch.equal(again.steps, steps)


def test_what_is_missing_is_named():
    tensors = through_a_file(Nested(begun().chains, 1, 1.0))
    for name in ("chains.score", "count"):
        with pytest.raises(StoreError, match=name.rpartition(".")[2]):
            rebuild(Nested, {key: tensor for key, tensor in tensors.items() if key != name}, torch.device("cpu"))


@dataclass(frozen=True)
class Whole:
    parts: tuple[Nested, ...]
    images: tuple[bytes, ...]
    numbers: tuple[int, ...]
    rates: tuple[float, ...]
    on: bool
    held: Tensor = field(metadata=ON_CPU)
    a: Nested | None = None
    given: Kernel = field(default=KERNEL, metadata=CONSTANT)


@pytest.mark.parametrize("count", [0, 1, 12])
def test_tuples_none_and_bytes_come_back_as_they_were(count):
    parts = tuple(Nested(begun().chains, index, 0.5 * index) for index in range(count))
    images = tuple(bytes([index]) * (index % 3) for index in range(count))
    tree = Whole(parts, images, tuple(range(count)), tuple(0.1 * index for index in range(count)), True, torch.ones(2))
    other = Kernel(steps=3)
    again = rebuild(Whole, through_a_file(tree), CPU, {Kernel: other})
    assert to_tensors(again).keys() == to_tensors(tree).keys()
    check_alike(again, tree)
    assert (again.images, again.numbers, again.rates, again.on) == (images, tree.numbers, tree.rates, True)
    assert [part.count for part in again.parts] == list(range(count))
    assert again.a is None and again.given is other and rebuild(Whole, to_tensors(tree), CPU).given is KERNEL


def test_bytes_without_their_sizes_are_refused_by_name():
    tensors = to_tensors(Whole((), (b"abc", b"d"), (), (), False, torch.ones(1)))
    for change in ({"images": tensors["images"][:2]}, {"images.sizes": torch.tensor([3, 2])}):
        with pytest.raises(StoreError, match="images"):
            rebuild(Whole, tensors | change, CPU)
    del tensors["images.sizes"]
    with pytest.raises(StoreError, match=r"images\.sizes"):
        rebuild(Whole, tensors, CPU)


def test_what_cannot_be_saved_is_refused_by_name():
    with pytest.raises(TypeError, match="count is a str"):
        to_tensors(Nested(begun().chains, "one", 1.0))


def test_what_the_cpu_reads_is_rebuilt_on_the_cpu():
    tree = Whole((Nested(begun().chains, 1, 1.0),), (), (), (), True, torch.ones(2))
    again = rebuild(Whole, to_tensors(tree), torch.device("meta"))
    assert again.held.device == CPU and again.parts[0].chains.score.device == torch.device("meta")


def test_what_is_taken_up_shares_no_memory_with_what_was_saved():
    tensors = through_a_file(begun().chains)
    again = rebuild(ChainState, tensors, torch.device("cpu"))
    tensors["score"].zero_()
    assert again.score.abs().min() > 0
    # A matrix product may depend on how memory is aligned.
    assert all(getattr(again, name).data_ptr() % 64 == 0 for name in ("position", "score", "gradient"))
