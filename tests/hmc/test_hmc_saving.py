"""Chains put down and taken up again: the same to the bit, through a file, in another process's hands."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from hmc_targets import ridges, streams
from safetensors.torch import load, save
from torch import Tensor

from raygen.errors import StoreError
from raygen.hmc import ChainState, Kernel, Parameters, WarmUp, begin, draw, from_tensors, to_tensors, warm_up
from raygen.hmc.saving import rebuild, under, within


@dataclass(frozen=True)
class Steered:
    """A tilt rule that depends on where the chains are."""

    tilt: Tensor
    note: str = "no number and no tensor"
    large: Tensor = field(default_factory=lambda: torch.zeros(10), metadata={"constant": True})

    def observe(self, gradient):
        found = gradient.flatten(1).norm(dim=1).view(len(self.tilt), -1).mean(1)
        return replace(self, tilt=0.9 * self.tilt + 0.1 / found)


KERNEL, PLAN = Kernel(steps=6), WarmUp(20, angle=1.2, chees=True, each_chain=True)


def begun(chains=3):
    noise, target = streams(chains, "0", "1"), ridges(4)
    return begin(PLAN, KERNEL, KERNEL.init(target, noise.start((4,))), Steered(torch.ones(2, dtype=torch.float64)))


def through_a_file(state):
    return load(save(to_tensors(state)))


@pytest.mark.parametrize("stop", [0, 1, 13, 19])
def test_warm_up_goes_on_from_a_file_as_if_nothing_had_been(stop):
    noise, target = streams(3, "0", "1"), ridges(4)
    states = [begun()]
    whole, found = warm_up(PLAN, KERNEL, target, noise, begun(), lambda state, info: states.append(state))
    taken_up = from_tensors(begun(), through_a_file(states[stop]))
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
    taken_up, parameters = (
        from_tensors(like, through_a_file(value)) for like, value in ((begun().chains, half), (known, known))
    )
    assert isinstance(taken_up, ChainState) and isinstance(parameters, Parameters)
    end, after = draw(KERNEL, target, taken_up, parameters, noise, first=20 + stop, iterations=10 - stop,
                      on_step=lambda *_: None)  # fmt: skip
    assert torch.equal(end.position, whole.position) and torch.equal(end.gradient, whole.gradient)
    for name in ("score", "energy", "projections", "acceptance", "diverged", "potential"):
        assert torch.equal(torch.cat([getattr(before, name), getattr(after, name)]), getattr(trace, name))


def test_the_state_of_other_chains_is_refused_by_name():
    with pytest.raises(StoreError, match=r"chains\.position"):
        from_tensors(begun(3), to_tensors(begun(2)))


def test_what_never_changes_is_not_saved():
    assert "rule.tilt" in to_tensors(begun()) and "rule.large" not in to_tensors(begun())


def test_a_torn_state_is_refused_by_name():
    tensors = to_tensors(begun())
    del tensors["step_size.log_average"]
    with pytest.raises(StoreError, match=r"step_size\.log_average"):
        from_tensors(begun(), tensors)


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


def test_parts_are_found_under_their_own_names_alone():
    parts = {"a": {"x": torch.ones(1), "b.x": torch.zeros(1)}, "ab": {"x": torch.ones(2)}}
    whole = {**under("a", parts["a"]), **under("ab", parts["ab"])}
    assert {name: within(whole, name) for name in parts} == parts and within(whole, "b") == {}


def test_what_is_taken_up_shares_no_memory_with_what_was_saved():
    tensors = through_a_file(begun().chains)
    again = rebuild(ChainState, tensors, torch.device("cpu"))
    tensors["score"].zero_()
    assert again.score.abs().min() > 0
    # A matrix product may depend on how memory is aligned.
    assert all(getattr(again, name).data_ptr() % 64 == 0 for name in ("position", "score", "gradient"))
