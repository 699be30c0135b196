"""The exceptions: one line of three parts, an exit status, and a way through pickling."""

import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygen import errors
from raygen.errors import InputError, RaygenError, UnfinishedError, closest

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RaygenError)]
INPUT = [kind for kind in ALL if issubclass(kind, InputError)]


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    assert {kind.__name__ for kind in ALL} == {word for word in errors.__doc__.split() if word.endswith("Error")}


@pytest.mark.parametrize("kind", INPUT)
def test_bad_input_is_one_line_of_three_parts_with_status_2(kind: type[InputError]) -> None:
    error = kind("it is\n  wrong", where="here\tnow", right="do\nright")
    assert str(error) == "here now: it is wrong; do right"
    assert (error.where, error.what, error.right) == ("here now", "it is wrong", "do right")
    assert error.exit_status == 2


@pytest.mark.parametrize("kind", INPUT)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bad_input_survives_pickling(kind: type[InputError], protocol: int) -> None:
    error = kind("what", where="where", right="right")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is kind
    assert (again.what, again.where, again.right, str(again)) == ("what", "where", "right", str(error))


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in INPUT])
def test_other_errors_survive_pickling(kind: type[RaygenError]) -> None:
    again = pickle.loads(pickle.dumps(kind("a line")))
    assert type(again) is kind
    assert str(again) == "a line"


def test_exit_statuses() -> None:
    assert (RaygenError.exit_status, InputError.exit_status, UnfinishedError.exit_status) == (1, 2, 3)


def test_closest_names_the_near_ones_nearest_first() -> None:
    assert closest("conv3", ["conv1", "pool", "conv30", "ip1"]) == "did you mean conv30 or conv1?"


def test_closest_names_all_where_none_is_near_and_counts_the_rest() -> None:
    assert closest("zzz", ["a", "b"]) == "known are a, b"
    assert closest("zzz", [f"name{i}" for i in range(15)]).endswith(", name11 and 3 more")


@given(name=st.text(string.printable), known=st.lists(st.text(string.ascii_letters, min_size=1), unique=True))
def test_closest_answers_anything_with_known_names_only(name: str, known: list[str]) -> None:
    phrase = closest(name, known)
    if name in known:
        assert phrase.startswith(f"did you mean {name}")
    if phrase.startswith("did you mean "):
        assert set(phrase.removeprefix("did you mean ").removesuffix("?").split(" or ")) <= set(known)


def test_closest_gives_so_many_at_most() -> None:
    assert closest("conv", [f"conv{i}" for i in range(9)], limit=2).count("conv") == 2
