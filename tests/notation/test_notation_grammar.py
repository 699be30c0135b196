"""Lists of nodes, read into items: where an item and a name end, which layer a comma goes on with, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygen.errors import NodeError
from raygen.notation import Channels, Ending, Item, Name, quote, read_list, write_name

LAYERS = ("conv1", "conv2", "fc", "3", "m.layer one", "my layer: 2", "a, b")
CLASSES = ("ostrich", "orange", "great white shark", "great", "conv2", "jack-o'-lantern", "yes, no", "a: b", "C++", "3",
           "2-wheeler", "T_shirt", "conv1 bird")  # fmt: skip


def items(text):
    return list(read_list(text, LAYERS, CLASSES))


def read(text):
    """Each item's layer and what is chosen of it."""
    return [(item.layer.text, item.choice) for item in items(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fc:ostrich,orange", [("fc", Name("ostrich")), ("fc", Name("orange"))]),
        ("fc:ostrich,3,7-9", [("fc", Name("ostrich")), ("fc", Channels(3, 3)), ("fc", Channels(7, 9))]),
        ("fc:1 , 2\n,3", [("fc", Channels(1, 1)), ("fc", Channels(2, 2)), ("fc", Channels(3, 3))]),
        ("conv1:0,[3-5],*", [("conv1", Channels(0, 0)), ("conv1", ((3, 1.0), (5, -1.0))), ("conv1", None)]),
        ("conv1:0,conv2:1,2", [("conv1", Channels(0, 0)), ("conv2", Channels(1, 1)), ("conv2", Channels(2, 2))]),
        # A number is a channel, though there is a layer of that name; after a space it is the layer.
        ("conv1:0,3", [("conv1", Channels(0, 0)), ("conv1", Channels(3, 3))]),
        ("conv1:0,3:1", [("conv1", Channels(0, 0)), ("3", Channels(1, 1))]),
        ("conv1:0 3", [("conv1", Channels(0, 0)), ("3", None)]),
        # A class that is called like a layer.
        ("fc:ostrich,conv2", [("fc", Name("ostrich")), ("conv2", None)]),
        ("fc:conv2,ostrich", [("fc", Name("conv2")), ("fc", Name("ostrich"))]),
        ("fc:ostrich,{conv2}", [("fc", Name("ostrich")), ("fc", Name("conv2", quoted=True))]),
        ("fc:ostrich,'conv2'", [("fc", Name("ostrich")), ("fc", Name("conv2", quoted=True))]),
        ("fc:ostrich,'conv2':1", [("fc", Name("ostrich")), ("conv2", Channels(1, 1))]),
        ("fc:ostrich,conv1 bird", [("fc", Name("ostrich")), ("fc", Name("conv1 bird"))]),
        # Names with stars are patterns of layers, whatever they fit.
        ("fc:ostrich,conv*", [("fc", Name("ostrich")), ("conv*", None)]),
        ("fc:ostrich,conv*:1,2", [("fc", Name("ostrich")), ("conv*", Channels(1, 1)), ("conv*", Channels(2, 2))]),
        # The longest known name counts.
        ("fc:great white shark,great", [("fc", Name("great white shark")), ("fc", Name("great"))]),
        ("fc:Great_White  shark", [("fc", Name("Great_White  shark"))]),
        ("fc:yes, no,orange", [("fc", Name("yes, no")), ("fc", Name("orange"))]),
        ("fc:a: b@mean", [("fc", Name("a: b"))]),
        ("fc:jack-o'-lantern,2-wheeler", [("fc", Name("jack-o'-lantern")), ("fc", Name("2-wheeler"))]),
        ("m.layer one:0 my layer: 2:3,4", [("m.layer one", Channels(0, 0)), ("my layer: 2", Channels(3, 3)),
                                           ("my layer: 2", Channels(4, 4))]),
        ("a, b", [("a, b", None)]),
        # Unknown names end where they seem to.
        ("fc:daily news conv1:2", [("fc", Name("daily news")), ("conv1", Channels(2, 2))]),
        ("fc:daily news,conv9:2", [("fc", Name("daily news")), ("conv9", Channels(2, 2))]),
        ("m.layer two:0", [("m.layer two", Channels(0, 0))]),
        ('"my layer: 2":3', [("my layer: 2", Channels(3, 3))]),
        ('fc:"a, b: c@d"', [("fc", Name("a, b: c@d", quoted=True))]),
        (r"""fc:"say \"a\" \\ \u{e9}\n" """, [("fc", Name('say "a" \\ é\\n', quoted=True))]),
        ("fc:'it\\'s \"so\"'", [("fc", Name('it\'s "so"', quoted=True))]),
        ("fc:[{3} - 0.5*\"a, b\" + C++ - jack-o'-lantern]", [("fc", (
            (Name("3", quoted=True), 1.0), (Name("a, b", quoted=True), -0.5), (Name("C++"), 1.0),
            (Name("jack-o'-lantern"), -1.0)))]),
    ],
)  # fmt: skip
def test_a_list_is_read_as_it_is_meant(text, expected):
    assert read(text) == expected


def test_an_item_has_its_ending_and_its_own_text():
    assert items("conv1:0-3@24,0@relu, 5@mean fc") == [
        Item(Name("conv1"), Channels(0, 3), Ending((24, 0), after=True), "conv1:0-3@24,0@relu"),
        Item(Name("conv1"), Channels(5, 5), Ending(mean=True), "conv1:0-3@24,0@relu, 5@mean", continues=True),
        Item(Name("fc"), None, Ending(), "fc", alone=True),
    ]


@given(st.lists(st.text(max_size=8), min_size=1), st.sampled_from([",", " , ", "\n,"]))
def test_names_of_any_characters_are_read_in_quotation_marks(names, comma):
    asked = [(layer, Name(name, quoted=True)) for layer, name in zip(names, reversed(names), strict=True)]
    quoted = ['"' + write_name(name + ":").removeprefix('"').removesuffix(':"') + '"' for name in names]
    text = comma.join(f"{layer}:{name}" for layer, name in zip(quoted, reversed(quoted), strict=True))
    assert read(text) == asked
    one = f"fc:{comma.join(quoted)}"
    assert read(one) == [("fc", Name(name, quoted=True)) for name in names]


@given(st.text() | st.text("conv123fc:*-@, \"'[]{}+.meanrlu\\ostrich\0\ud800", max_size=30))
def test_any_text_is_read_or_refused_in_one_line_that_can_be_printed(text):
    try:
        found = items(text)
    except NodeError as refused:
        assert str(refused).isprintable() and len(str(refused)) < 400
    else:
        assert bool(found) == bool(text.replace(",", " ").strip())


POSITION = "give @row,column, such as @3,4, or @mean, or @relu"
OPEN = "the quotation mark {} is not closed; put {} at the end of the name as well"
GLUED = "follows without a comma or a space; put one between two items"
SUM = "give channels with signs and weights, such as [0.5*12+7] or [3-5]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv1:1@3", f"nodes conv1:1@3: '@3' is no position; {POSITION}"),
        ("conv1:1@3,x conv2", f"nodes conv1:1@3: '@3' is no position; {POSITION}"),
        ("conv1:1@", f"nodes conv1:1@: '@' is no position; {POSITION}"),
        ("conv1:1@median@relu", f"nodes conv1:1@median@relu: '@median' is no position; {POSITION}"),
        ("conv1:1@mean@1,1", "nodes conv1:1@mean@1,1: '@1,1' comes after another one; give one"),
        ("fc:1,2@relu@relu", "nodes fc:1,2@relu@relu: '@relu' comes after another one; give one"),
        ("conv1:[]", f"nodes conv1:[]: is no weighted sum; {SUM}"),
        ("conv1:[3 + ] fc", f"nodes conv1:[3 + ]: is no weighted sum; {SUM}"),
        ("conv1:[3", f"nodes conv1:[3: is no weighted sum; {SUM}"),
        ("fc:[{3} {3}]", f"nodes fc:[{{3}} {{3}}]: is no weighted sum; {SUM}"),
        ("fc:1,[1e999*3]", f"nodes fc:1,[1e999*3]: the weight 1e999 is too large; {SUM}"),
        ('fc:"ostrich, orange', f'nodes fc:"ostrich, orange: {OPEN.format(*2 * [chr(34)])}'),
        ("fc:ostrich,'", f"nodes fc:ostrich,': {OPEN.format(*2 * [chr(39)])}"),
        ("'", f"nodes ': {OPEN.format(*2 * [chr(39)])}"),
        ("fc:{sea lion", "nodes fc:{sea lion: unknown class '{sea lion', whose brace is not closed; put } at the end "
                         "of the name"),
        ('fc:"ostrich"x', f"nodes fc:\"ostrich\"x: 'x' {GLUED}"),
        ('"fc"x:3', f"nodes \"fc\"x:3: 'x:3' {GLUED}"),
        ("fc:{ostrich}{3}", f"nodes fc:{{ostrich}}{{3}}: '{{3}}' {GLUED}"),
        ("fc:[3]4", f"nodes fc:[3]4: '4' {GLUED}"),
    ],
)  # fmt: skip
def test_what_is_not_written_like_an_item_is_quoted_as_it_was_written(text, message):
    with pytest.raises(NodeError) as refused:
        items(text)
    assert str(refused.value) == message


def test_of_a_long_list_a_message_shows_the_layer_and_the_item():
    text = "conv1:" + ",".join(map(str, range(90)))
    assert items(text)[-1].text == "conv1:...,89"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a b"),
        ("a\n\t b", "a b"),
        ("a\0\x1b[31m\udc80é", r"a\x00\x1b[31m\udc80é"),
        ("9" * 5000, "9" * 77 + "..."),
    ],
)
def test_what_a_message_quotes_is_short_and_can_be_printed(text, shown):
    assert quote(text) == shown
