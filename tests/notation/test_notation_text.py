"""The text of one node: what str writes, read_node reads; plain names are written as they are."""

import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raygen.errors import NodeError
from raygen.notation import Node, read_node, sum_node, without_layer, write_name

NAMES = st.text(st.characters(exclude_categories=()), max_size=12)
"""Names of any characters: controls, quotation marks, lone surrogates."""

WEIGHTS = st.floats(allow_nan=False, allow_infinity=False).filter(bool)
SUMS = st.dictionaries(st.integers(0, 10**18 - 1), WEIGHTS, min_size=1, max_size=4).map(
    lambda terms: list(terms.items())
)
ENDINGS = st.fixed_dictionaries(
    {"after": st.booleans()},
    optional={"position": st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))},
) | st.fixed_dictionaries({"after": st.booleans(), "mean": st.booleans()})
NODES = st.builds(lambda layer, terms, ending: sum_node(layer, terms, **ending), NAMES, SUMS, ENDINGS)


@given(NODES)
@example(Node('a"b\\u{41}', 3))
@example(Node("", 3, (1, 2), after=True))
@example(Node("\ud800:\udc80", 0))
@example(Node("\U000e0001\n\t", 7))
def test_what_str_writes_is_read_as_an_equal_node_whatever_the_layer_is_called(node):
    text = str(node)
    assert read_node(text) == node
    assert text.isprintable() and text.encode()


@given(NODES)
def test_the_rest_of_a_nodes_text_is_found_behind_any_layer(node):
    assert str(node) == f"{write_name(node.layer)}:{without_layer(str(node))}"
    assert without_layer(str(node)).endswith(node.ending)


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (Node("conv2", 7), "conv2:7"),
        (Node("features.3.squeeze", 12, (3, 4)), "features.3.squeeze:12@3,4"),
        (Node("0", 1, mean=True, after=True), "0:1@mean@relu"),
        (sum_node("ip2", [(12, 0.5), (7, 1.0), (950, -1.0)]), "ip2:[7+0.5*12-950]"),
        (Node("größe.層_1-a/b[0](x){y}'", 0), "größe.層_1-a/b[0](x){y}':0"),
        (Node('o"clock', 0), 'o"clock:0'),
        (Node("layer one", 0), '"layer one":0'),
        (Node("my layer: 2", 3), '"my layer: 2":3'),
        (Node("a,b", 3), '"a,b":3'),
        (Node("a@b", 3), '"a@b":3'),
        (Node("a*", 3), '"a*":3'),
        (Node("{a}", 3), '"{a}":3'),
        (Node("'a'", 3), "\"'a'\":3"),
        (Node('say "a" \\ b', 3), '"say \\"a\\" \\\\ b":3'),
        (Node("a\nb\x1b\xa0", 3), '"a\\u{a}b\\u{1b}\\u{a0}":3'),
        (Node("", 3), '"":3'),
    ],
)
def test_only_names_that_need_it_are_quoted(node, text):
    assert str(node) == text
    assert read_node(text) == node


@pytest.mark.parametrize(
    "text",
    ["", "conv2", "conv2:*", "conv2:1-3", "conv2:01", "conv2:[1]", "conv2:[1+1]", "conv2:[5-]", "conv2:[1-1]",
     "conv2:1@relu@mean", "conv2:1@x", "conv2:1@mean@1,1", "conv2:[1e999*2]", "conv2:[3 5]", "conv2:[1e308*3+1e308*3]",
     "conv2:" + "9" * 5000, "conv2:1@0," + "9" * 5000, '"conv2":1', "'a b':1", '"a b:1', '"a b"c:1', "a b:1",
     "conv2:1\n", ":1", '"\\u{110000}":1', "conv2:\u0663", "conv2:7\0"],
)  # fmt: skip
def test_what_no_node_is_written_like_is_refused(text):
    with pytest.raises(NodeError, match="is no node as raygen writes it; give one such as conv2:7@3,4") as refused:
        read_node(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], 'nodes "a b": the weighted sum is 0; give channels with weights, such as [3-5]'),
        ([(3, 1.0), (3, -1.0)], 'nodes "a b": the weighted sum is 0; give channels with weights, such as [3-5]'),
        ([(3, 1e308), (3, 1e308)], 'nodes "a b": the weights add up to more than a number can hold; give channels with '
                                   "weights, such as [3-5]"),
    ],
)  # fmt: skip
def test_a_sum_of_which_nothing_or_too_much_is_left_is_refused(terms, message):
    with pytest.raises(NodeError) as refused:
        sum_node("a b", terms)
    assert str(refused.value) == message


def test_a_sum_is_the_same_however_it_is_written():
    node = sum_node("a", [(5, -1.0), (3, 0.5), (7, 0.0), (3, 0.5)])
    assert node == sum_node("a", [(3, 1.0), (5, -1.0)])
    assert sum_node("a", [(3, 1.0)]) == Node("a", 3)


def test_nodes_sort_by_layer_and_channel():
    assert sorted([Node("b", 10), Node("b", 9), Node("a", 30)]) == [Node("a", 30), Node("b", 9), Node("b", 10)]


def test_nodes_need_no_torch_and_nothing_else_of_raygen_but_its_errors():
    code = """
import sys
from raygen.notation import Node, read_list, read_node
list(read_list('a:1,"b"', ["a"], ["b"])), read_node("a:1")
own = sorted(name for name in sys.modules if name.startswith("raygen."))
assert own == ["raygen.errors", "raygen.notation", "raygen.notation.grammar", "raygen.notation.items",
               "raygen.notation.node", "raygen.notation.terms", "raygen.text"], own
assert not {"torch", "numpy", "pyarrow", "ray"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
