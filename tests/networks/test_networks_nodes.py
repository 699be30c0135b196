import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raygen.errors import NodeError
from raygen.networks import (
    NetworkSettings,
    Node,
    list_layers,
    load_network,
    node_label,
    parse_nodes,
    read_node,
    sum_node,
)
from raygen.notation import write_name

NAMES = ("crane", "crane bird", "Cardigan", "cardigan", "projectile, missile", "ox", "ox", "2-wheeler", "T_shirt", "z")
NETWORK = dataclasses.replace(load_network(NetworkSettings(weights="random")), class_names=NAMES)
LAYERS = tuple(dataclasses.replace(layer, rectified=layer.name in ("conv2", "relu1")) for layer in list_layers(NETWORK))


def parse(text):
    return parse_nodes(text, NETWORK, LAYERS)


def written(text):
    return [str(node) for node in parse(text)]


def nodes_of(layer):
    positions = st.none()
    if layer.map_size is not None:
        positions |= st.tuples(*(st.integers(0, side - 1) for side in layer.map_size))
    channels = st.integers(0, layer.channels - 1)
    weights = st.floats(-1e9, 1e9).filter(bool) | st.sampled_from([1.0, -1.0, 0.5, 2.0, 1e-5, 1e300, 5e-324, 1 / 3])
    sums = st.dictionaries(channels, weights, min_size=1, max_size=4).map(lambda terms: list(terms.items()))
    means = st.booleans() if layer.map_size is not None and not layer.is_classes else st.just(False)
    afters = st.booleans() if layer.rectified else st.just(False)
    return st.builds(
        lambda terms, position, mean, after: sum_node(
            layer.name, terms, position=None if mean else position, mean=mean, after=after
        ),
        channels.map(lambda channel: [(channel, 1.0)]) | sums,
        positions,
        means,
        afters,
    )


@given(st.lists(st.sampled_from(LAYERS).flatmap(nodes_of), min_size=1, unique=True), st.sampled_from([",", " ", ", "]))
def test_parsing_what_was_written_gives_the_nodes_back(nodes, separator):
    assert parse(separator.join(str(node) for node in nodes)) == tuple(nodes)
    assert [read_node(str(node)) for node in nodes] == nodes


@given(
    st.lists(st.text(st.characters(exclude_categories=()), max_size=6), min_size=1, unique=True),
    st.sampled_from([",", " ", ", ", "\n"]),
    st.data(),
)
@example(["x", "y", "x:3 y", "x:3,y:3", "y:4", '"x"', "3", "*", "x*", ""], " ", None)
def test_layers_and_classes_of_any_name_are_found_by_what_is_written(names, separator, data):
    layers = [dataclasses.replace(LAYERS[0], name=name) for name in names]
    network = dataclasses.replace(NETWORK, class_names=tuple(names))
    asked = [Node(name, channel) for channel, name in enumerate(names)]
    if data is not None:
        asked = [data.draw(nodes_of(layer)) for layer in layers]
    assert parse_nodes(separator.join(map(str, asked)), network, layers) == tuple(asked)
    (classes,) = (dataclasses.replace(layer, is_classes=True, channels=len(names)) for layer in layers[:1])
    text = f"{write_name(classes.name)}:" + ",".join(write_name(name + ":")[:-2] + '"' for name in names)
    assert parse_nodes(text, network, [classes]) == tuple(Node(classes.name, channel) for channel in range(len(names)))


@given(
    st.text(alphabet="conv12ip:*-@,0 3_[]{}+.meanrlu", max_size=20)
    | st.text("[]{}+-*.12a @", max_size=12).map("ip2:{}".format)
)
def test_any_text_is_parsed_or_refused_in_one_line(text):
    try:
        nodes = parse(text)
    except NodeError as error:
        assert "\n" not in str(error)
    else:
        assert nodes and len(set(nodes)) == len(nodes)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("conv2:7", ["conv2:7"]),
        ("conv2:3-5@2,1 conv1:0", ["conv2:3@2,1", "conv2:4@2,1", "conv2:5@2,1", "conv1:0"]),
        ("conv2:5, conv2:4-5,conv2:5", ["conv2:5", "conv2:4"]),
        ("conv1:*", [f"conv1:{channel}" for channel in range(20)]),
        ("conv1", [f"conv1:{channel}" for channel in range(20)]),
        ("conv1@0,23,ip2:1", [*(f"conv1:{channel}@0,23" for channel in range(20)), "ip2:1"]),
        ("ip2:crane", ["ip2:0"]),
        ("ip2:crane bird", ["ip2:1"]),
        ("ip2:Crane_Bird", ["ip2:1"]),
        ("ip2:crane,ip2:crane bird ip2:2", ["ip2:0", "ip2:1", "ip2:2"]),
        ("ip2:crane ip2:cardigan ip2:Cardigan", ["ip2:0", "ip2:3", "ip2:2"]),
        ("ip2:projectile, missile, conv1:1", ["ip2:4", "conv1:1"]),
        ("ip2:2-wheeler ip2:2-3", ["ip2:7", "ip2:2", "ip2:3"]),
        ("ip2:T shirt ip2:T_shirt", ["ip2:8"]),
        ("conv2:7@mean,conv2:7", ["conv2:7@mean", "conv2:7"]),
        ("conv2:7@relu@1,2 conv2:1-2@mean@relu", ["conv2:7@1,2@relu", "conv2:1@mean@relu", "conv2:2@mean@relu"]),
        ("relu1:3@relu", ["relu1:3@relu"]),
        ("ip2:[3-5]", ["ip2:[3-5]"]),
        ("ip2:[-5+3] ip2:[3 - 5]", ["ip2:[3-5]"]),
        ("conv2:[0.5*12+1*7+0.5*12]@3,4, ip2:1", ["conv2:[7+12]@3,4", "ip2:1"]),
        ("conv2:[ 2*3 - 1e-1 * 4 ] conv2", ["conv2:[2*3-0.1*4]", *(f"conv2:{channel}" for channel in range(50))]),
        ("ip2:[3] ip2:[+3] ip2:[1*3]", ["ip2:3"]),
        ("ip2:[-3]", ["ip2:[-3]"]),
        ("ip2:[crane bird - projectile, missile]", ["ip2:[1-4]"]),
        ("ip2:[T_Shirt-crane+z]", ["ip2:[8+9-0]"]),
        ("ip2:[{2-wheeler}-0.5*{crane}]", ["ip2:[7-0.5*0]"]),
        ("ip2:{crane} ip2:{projectile, missile},ip2:{Cardigan}", ["ip2:0", "ip2:4", "ip2:2"]),
        ("ip2:crane,z,projectile, missile,3,5-6", ["ip2:0", "ip2:9", "ip2:4", "ip2:3", "ip2:5", "ip2:6"]),
        ("ip2:\"projectile, missile\", 'CRANE BIRD'", ["ip2:4", "ip2:1"]),
        ("ip2:crane,conv1:1,2", ["ip2:0", "conv1:1", "conv1:2"]),
        ("conv*:0,3@1,1", ["conv1:0", "conv2:0", "conv1:3@1,1", "conv2:3@1,1"]),
        ("'conv2':1,\"ip2\":'z'", ["conv2:1", "ip2:9"]),
        ("conv2:00000000000000000000003", ["conv2:3"]),
    ],
)
def test_lists_ranges_and_class_names(text, nodes):
    assert written(text) == nodes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no node is named"),
        (" , ", "no node is named"),
        ("con2:7", "unknown layer 'con2'; did you mean conv2"),
        ("conv1:20", "no channel 20; channels of conv1 are 0-19"),
        ("conv1:3-20", "no channel 20; channels of conv1 are 0-19"),
        ("conv1:5-3", "the range 5-3 is empty; give 3-5"),
        ("conv1:crane", "'crane' is no channel of conv1; give a channel 0-19"),
        ("conv1:", "is no channel of conv1"),
        ("conv1:-1", "is no channel of conv1"),
        ("conv2:1@8,0", r"outside the map of conv2; rows are 0-7, columns 0-7"),
        ("conv2:1@0,8", r"outside the map of conv2; rows are 0-7, columns 0-7"),
        ("conv2:1@3", "'@3' is no position; give @row,column"),
        ("ip1:1@0,0", "ip1 has no map; leave the position out"),
        ("ip2:cran", "unknown class 'cran'; did you mean crane"),
        ("ip2:craner", "unknown class 'craner'; did you mean crane"),
        ("ip2:ox", "2 classes bear the name 'ox'; give the channel: 5 or 6"),
        ("ip2:CARDIGAN", "give the channel: 2 or 3"),
        (":3", "unknown layer"),
        ("conv2:[3-50]", r"nodes conv2:\[3-50\]: there is no channel 50; channels of conv2 are 0-49"),
        ("conv2:[3-3]", "the weighted sum is 0"),
        ("conv2:[]", "is no weighted sum; give channels with signs and weights"),
        ("conv2:[3", "is no weighted sum|is no channel"),
        ("conv2:[3 5]", "is no channel of conv2|is no weighted sum"),
        ("conv2:[1e999*3]", "the weight 1e999 is too large"),
        ("conv2:[crane]", "'crane' is no channel of conv2"),
        ("ip2:[crane-cran]", "unknown class 'cran'; did you mean crane"),
        ("ip2:[ox-3]", "2 classes bear the name 'ox'; give the channel: 5 or 6"),
        ("ip2:{crane", "unknown class"),
        ("ip2:{cran}", "unknown class 'cran'; did you mean crane"),
        ("conv1:3@relu", "conv1 does not end with a ReLU; leave @relu out"),
        ("ip1:3@mean", "ip1 has no map; leave @mean out"),
        ("conv2:3@mean@1,1", "'@1,1' comes after another one"),
        ("conv2:3@relu@relu", "'@relu' comes after another one"),
        ("conv2:3@median", "'@median' is no position; give @row,column, such as @3,4, or @mean, or @relu"),
    ],
)
def test_what_is_not_there_is_explained(text, message):
    with pytest.raises(NodeError, match=message):
        parse(text)


GIVE = "give a channel 0-19, a range such as 0-3, or *"
ROWS = "rows are 0-23, columns 0-23"
TERMS = "give channels with weights, such as [3-5]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv1:0@24,0", f"nodes conv1:0@24,0: position 24,0 is outside the map of conv1; {ROWS}"),
        ("conv1:1, 0-3@24,0", f"nodes conv1:1, 0-3@24,0: position 24,0 is outside the map of conv1; {ROWS}"),
        ("ip1:1@0,0", "nodes ip1:1@0,0: ip1 has no map; leave the position out"),
        ("ip1@mean", "nodes ip1@mean: ip1 has no map; leave @mean out"),
        ("conv1:[3-5]@relu", "nodes conv1:[3-5]@relu: conv1 does not end with a ReLU; leave @relu out"),
        ("con2:7", "nodes con2:7: unknown layer 'con2'; did you mean conv2 or conv1?"),
        ('"conv2 ":7', "nodes \"conv2 \":7: unknown layer 'conv2 '; did you mean conv2 or conv1?"),
        (":3", "nodes :3: unknown layer ''; begin with the name of a layer, such as conv1"),
        ("@mean", "nodes @mean: unknown layer ''; begin with the name of a layer, such as conv1"),
        (
            "conv1:0 5-6",
            "nodes 5-6: unknown layer '5-6'; for channels of the layer before, put a comma instead of the space",
        ),
        ("ip2:crane z", "nodes z: unknown layer 'z'; for the class write ip2:z"),
        ("crane bird", "nodes crane: unknown layer 'crane'; for the class write ip2:crane"),
        ("conv*:0,77", "nodes conv*:0,77: there is no channel 77; channels of conv1 are 0-19"),
        (
            "conv1:0," + "9" * 5000,
            f"nodes conv1:...,{'9' * 67}...: there is no channel of so many digits; channels of conv1 are 0-19",
        ),
        ("conv1:0,5-3@1,1", "nodes conv1:0,5-3@1,1: the range 5-3 is empty; give 3-5"),
        ("conv1:", f"nodes conv1:: the empty name after the colon is no channel of conv1; {GIVE}"),
        (
            "ip2: z",
            "nodes ip2:: the empty name after the colon is no class of ip2; "
            "give a class, a channel 0-9, a range such as 0-3, or *",
        ),
        ("conv1:0:3", f"nodes conv1:0:3: '0:3' is no channel of conv1; {GIVE}"),
        ("conv1:[0-z]", f"nodes conv1:[0-z]: 'z' is no channel of conv1; {GIVE}"),
        ("conv1:0,x y", f"nodes conv1:0,x y: 'x y' is neither a layer nor a channel of conv1; {GIVE}"),
        (
            "conv1:0,conv",
            "nodes conv1:0,conv: 'conv' is neither a layer nor a channel of conv1; did you mean conv2 or conv1?",
        ),
        ("conv1:0,z", "nodes conv1:0,z: 'z' is neither a layer nor a channel of conv1; for the class write ip2:z"),
        (
            "ip2:z,cran@mean",
            "nodes ip2:z,cran@mean: 'cran' is neither a layer nor a class of ip2; "
            "did you mean crane or cardigan or Cardigan?",
        ),
        ('ip2:z,"cran"', "nodes ip2:z,\"cran\": unknown class 'cran'; did you mean crane or cardigan or Cardigan?"),
        ("ip2:crane brd conv1:2", "nodes brd: unknown layer 'brd'; did you mean \"crane bird\" or crane?"),
        ("ip2:cr\x00ane", "nodes ip2:cr\\x00ane: unknown class 'cr\\x00ane'; did you mean crane or \"crane bird\"?"),
        ("ip2:ox", "nodes ip2:ox: 2 classes bear the name 'ox'; give the channel: 5 or 6"),
        ("ip2:[3 - 3]", f"nodes ip2:[3 - 3]: the weighted sum is 0; {TERMS}"),
        (
            "ip2:[1e308*3+1e308*3]",
            f"nodes ip2:[1e308*3+1e308*3]: the weights add up to more than a number can hold; {TERMS}",
        ),
        ("pool*:0", "nodes pool*:0: no convolution or linear layer fits 'pool*'; did you mean pool2 or pool1?"),
    ],
)
def test_the_whole_line_says_what_is_wrong_in_which_item_and_what_would_be_right(text, message):
    with pytest.raises(NodeError) as refused:
        parse(text)
    assert str(refused.value) == message


def test_a_name_of_many_stars_is_looked_for_in_no_time():
    with pytest.raises(NodeError, match="no convolution or linear layer fits"):
        parse("*" * 300 + "c*o*n*v*" * 20 + "x:0")
    assert parse("***c**n*v*2:0") == (Node("conv2", 0),)


def test_nodes_of_one_layer_and_ending_may_share_a_batch():
    nodes = parse("conv2:1@mean conv2:[3-5]@mean conv2:1 conv2:2@1,1 conv2:2@relu")
    assert [node.ending for node in nodes] == ["@mean", "@mean", "", "@1,1", "@relu"]


def test_only_nodes_of_the_class_layer_have_labels():
    assert node_label(parse("ip2:[crane-0.5*z+2*T_shirt]")[0], NETWORK, LAYERS) == "crane + 2 T_shirt - 0.5 z"
    assert node_label(Node("ip2", 4), NETWORK, LAYERS) == "projectile, missile"
    assert node_label(Node("ip1", 4), NETWORK, LAYERS) is None


def test_a_star_in_a_layers_name_stands_for_every_convolution_and_linear_layer_that_fits():
    assert written("*:*") == written("conv1:* conv2:* ip1:* ip2:*")
    assert written("conv*:3-4") == written("conv1:3-4 conv2:3-4")
    assert written("*1:0@relu" if LAYERS[0].rectified else "*1:0") == written("conv1:0 ip1:0")
    assert written("c*v2:[1-4]@mean, ip2") == written("conv2:[1-4]@mean ip2")
    assert parse("*:*") == parse("*")


@pytest.mark.parametrize("text", ["pool*:0", "nothing*:0", "conv*:50"])
def test_a_star_that_fits_no_such_layer_or_channel_is_refused(text):
    with pytest.raises(NodeError, match=r"no convolution or linear layer fits|there is no channel 50"):
        parse(text)
