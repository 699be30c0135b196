import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygen.errors import NodeError
from raygen.networks import NetworkSettings, Node, list_layers, load_network, node_label, parse_nodes

NAMES = ("crane", "crane bird", "Cardigan", "cardigan", "projectile, missile", "ox", "ox", "2-wheeler", "T_shirt", "z")
NETWORK = dataclasses.replace(load_network(NetworkSettings(weights="random")), class_names=NAMES)
LAYERS = list_layers(NETWORK)


def parse(text):
    return parse_nodes(text, NETWORK, LAYERS)


def written(text):
    return [str(node) for node in parse(text)]


def nodes_of(layer):
    positions = st.none()
    if layer.map_size is not None:
        positions |= st.tuples(*(st.integers(0, side - 1) for side in layer.map_size))
    return st.builds(Node, st.just(layer.name), st.integers(0, layer.channels - 1), positions)


@given(st.lists(st.sampled_from(LAYERS).flatmap(nodes_of), min_size=1, unique=True), st.sampled_from([",", " ", ", "]))
def test_parsing_what_was_written_gives_the_nodes_back(nodes, separator):
    assert parse(separator.join(str(node) for node in nodes)) == tuple(nodes)


@given(st.text(alphabet="conv12ip:*-@,0 3_", max_size=20))
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
    ],
)
def test_what_is_not_there_is_explained(text, message):
    with pytest.raises(NodeError, match=message):
        parse(text)


def test_only_nodes_of_the_class_layer_have_labels():
    assert node_label(Node("ip2", 4), NETWORK, LAYERS) == "projectile, missile"
    assert node_label(Node("ip1", 4), NETWORK, LAYERS) is None


def test_nodes_sort_by_layer_and_channel():
    assert sorted(parse("conv2:10 conv2:9 conv1:3")) == [Node("conv1", 3), Node("conv2", 9), Node("conv2", 10)]
