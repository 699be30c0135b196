"""From nodes to units, and from nodes to the words that ask for them."""

import dataclasses
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.networks import NetworkSettings, Node, list_layers, load_network, parse_nodes, read_node, sum_node
from raygen.runs import describe_nodes, plan_units
from raygen.sampling import SamplingSettings

LENET = load_network(NetworkSettings(weights="random"))
LAYERS = list_layers(LENET)
SIZES = {layer.name: (layer.channels, layer.map_size) for layer in LAYERS}


@st.composite
def lenet_nodes(draw):
    layer = draw(st.sampled_from(sorted(SIZES)))
    channels, map_size = SIZES[layer]
    channel = draw(st.integers(0, min(channels, 12) - 2))
    if draw(st.booleans()):
        weights = st.floats(-3, 3).filter(lambda weight: abs(weight) > 0.01)
        return sum_node(
            layer, [(0, draw(weights)), (channel + 1, 1.0)], mean=map_size is not None and draw(st.booleans())
        )
    if map_size is None or draw(st.booleans()):
        return Node(layer, channel, mean=map_size is not None and draw(st.booleans()))
    return Node(layer, channel, (draw(st.integers(0, min(2, map_size[0] - 1))), draw(st.integers(0, 1))))


NODES = st.lists(lenet_nodes(), min_size=1, max_size=40, unique=True)


@settings(max_examples=150, deadline=None)
@given(NODES, st.integers(1, 9), st.integers(1, 40))
def test_units_hold_every_node_once_in_order_and_fit_the_batch(nodes, chains, batch):
    units = tuple(plan_units(nodes, chains=chains, batch=batch))
    held = [read_node(text) for unit in units for text in unit.nodes]
    assert Counter(held) == Counter(nodes)
    for unit in units:
        assert unit.chains == chains
        assert len(unit.nodes) * chains <= batch or len(unit.nodes) == 1
        assert {read_node(text).layer for text in unit.nodes} == {unit.layer}
        assert len({read_node(text).ending for text in unit.nodes}) == 1
    for key in {(node.layer, node.ending) for node in nodes}:
        asked = [node for node in nodes if (node.layer, node.ending) == key]
        assert [node for node in held if (node.layer, node.ending) == key] == asked
        of_key = [unit for unit in units if (unit.layer, read_node(unit.nodes[0]).ending) == key]
        assert len(of_key) == -(-len(asked) // max(1, batch // chains))  # no more units than it takes
    assert len({unit.name for unit in units}) == len({unit.path for unit in units}) == len(units)


@settings(max_examples=50, deadline=None)
@given(NODES, NODES, st.integers(1, 9), st.integers(1, 40))
def test_the_units_of_a_layer_do_not_depend_on_the_other_layers(nodes, others, chains, batch):
    others = [node for node in others if node.layer not in {node.layer for node in nodes}]
    alone = tuple(plan_units(nodes, chains=chains, batch=batch))
    together = tuple(plan_units([*others, *nodes], chains=chains, batch=batch))
    assert [unit for unit in together if unit in alone] == list(alone)


def test_batches_of_a_layer_are_numbered():
    nodes = parse_nodes("conv1:0-4 conv1:7@2,3 ip2:9 ip2:[3-5] conv2:[1-4]@mean", LENET, LAYERS)
    units = tuple(plan_units(nodes, chains=4, batch=8))
    assert [(unit.name, unit.nodes) for unit in units] == [
        ("conv1-00000", ("conv1:0", "conv1:1")),
        ("conv1-00001", ("conv1:2", "conv1:3")),
        ("conv1-00002", ("conv1:4",)),
        ("conv1@2,3-00000", ("conv1:7@2,3",)),
        ("ip2-00000", ("ip2:9", "ip2:[3-5]")),
        ("conv2@mean-00000", ("conv2:[1-4]@mean",)),
    ]


@settings(max_examples=200, deadline=None)
@given(NODES)
def test_what_describes_nodes_parses_to_the_same_nodes(nodes):
    assert parse_nodes(describe_nodes(nodes), LENET, LAYERS) == tuple(nodes)


def test_descriptions_join_runs_of_channels():
    for text in (
        "conv1:0-19 ip2:3",
        "conv1:0-2 conv1:4 conv1:3",
        "conv2:1-2@3,4 conv2:1-2@0,0 conv2:5",
        "ip2:9 ip2:0",
        "ip2:0-1 ip2:[3-5] ip2:2",
        "conv1:0-2@mean conv1:[0-1]@mean",
    ):
        assert describe_nodes(parse_nodes(text, LENET, LAYERS)) == text
    assert describe_nodes(parse_nodes("ip2 conv1:*", LENET, LAYERS)) == "ip2:0-9 conv1:0-19"


def test_nodes_of_layers_with_any_name_are_planned_and_described_so_that_they_are_read_again():
    layers = [dataclasses.replace(LAYERS[0], name=name) for name in ("layer one", "a: b, c@d", "x", '"', "*")]
    nodes = [Node(layer.name, channel) for layer in layers for channel in (0, 1, 5)]
    assert parse_nodes(describe_nodes(nodes), LENET, layers) == tuple(nodes)
    units = list(plan_units(nodes, chains=4, batch=8))
    assert [node for unit in units for node in unit.parsed] == nodes
    assert [text for unit in units for text in unit.nodes] == [str(node) for node in nodes]


def test_views_count_as_images_of_a_pass():
    own = SamplingSettings(batch=32, chains=4, views=4)
    assert own.together == 8 and SamplingSettings(batch=32).together == 32
    assert SamplingSettings(batch=2, views=8).together == 1
    units = tuple(plan_units([Node("conv", channel) for channel in range(6)], chains=4, batch=own.together))
    assert [len(unit.nodes) for unit in units] == [2, 2, 2]
