"""Numbers of nodes and layers, from samples whose numbers are known."""

import math

import pyarrow as pa
import pytest

from raygen.gallery.evidence import read_nodes, totals


@pytest.fixture
def table(layer_of, table_of):
    layer = layer_of(channels=3)
    return table_of(layer, layer.units()[0])


def test_a_nodes_numbers_are_those_of_its_samples(table):
    node, images, means = list(read_nodes(table))[2]
    entry = node.entry
    assert (entry.node, entry.channel, entry.samples, entry.converged) == ("conv1:2", 2, 24, True)
    assert entry.r_hat == pytest.approx(1.02)
    assert entry.ess_bulk == 102
    assert entry.score == pytest.approx(
        20 + 1.5 + 0.25
    )  # means over chains 0..3 and draws 0..5 of 10 c + chain + draw/10
    assert entry.divergences == 2
    assert entry.top_share == 0.5
    assert not entry.constant
    assert [len(chain) for chain in images] == [6, 6, 6, 6]
    assert [len(chain) for chain in means] == [1, 1, 1, 1] and len({chain[0] for chain in means}) == 4
    assert [chain.mean_score for chain in node.chains] == [200, 201, 202, 203]
    assert [chain.number for chain in node.chains] == [0, 1, 2, 3]
    assert node.chains[1].scores == pytest.approx([21 + draw / 10 for draw in range(6)])
    assert node.low == (-0.25, -0.25) and node.high == (1.25, 1.25)


def test_samples_from_before_there_were_means_are_shown_without(table):
    nulls = pa.nulls(table.num_rows, table.schema.field("mean").type)
    older = table.set_column(table.schema.get_field_index("mean"), table.schema.field("mean"), nulls)
    assert all(means == [] for *_, means in read_nodes(older))


def test_the_order_of_the_rows_does_not_matter(table):
    backwards = table.take(list(range(table.num_rows))[::-1])
    assert {node.entry.node: node for node, *_ in read_nodes(backwards)} == {
        node.entry.node: node for node, *_ in read_nodes(table)
    }


def test_a_dead_unit_has_a_constant_score(table):
    column = table.schema.get_field_index("score")
    dead = table.set_column(column, table.schema.field(column), pa.array([0.0] * table.num_rows, pa.float32()))
    assert all(node.entry.constant for node, *_ in read_nodes(dead))


def test_a_layer_whose_name_looks_like_a_sum_has_top_channels(layer_of, table_of):
    layer = layer_of("block[0", channels=3)
    nodes = [node for node, *_ in read_nodes(table_of(layer, layer.units()[0]))]
    assert [node.entry.top_share for node in nodes] == [0.5, 0.5, 0.5]


def test_a_layers_totals(table):
    summed = totals([node.entry for node, *_ in read_nodes(table)])
    assert (summed.nodes, summed.samples, summed.divergences) == (3, 72, 6)
    assert summed.converged == pytest.approx(2 / 3)
    assert summed.r_hat == pytest.approx(1.01)
    assert summed.ess_bulk == 101
    assert summed.top_share == 0.5


def test_totals_of_nothing_are_no_numbers():
    summed = totals([])
    assert (summed.nodes, summed.samples) == (0, 0)
    assert math.isnan(summed.converged) and math.isnan(summed.r_hat)


@pytest.mark.parametrize(("stop_reason", "trajectories"), [("converged", 80), ("budget", 640), (None, None)])
def test_a_node_says_why_its_chains_ended(table, stop_reason, trajectories):
    for name, value in (("stop_reason", stop_reason), ("trajectories", trajectories)):
        index = table.schema.get_field_index(name)
        column = pa.array([value] * table.num_rows, table.schema.field(name).type)
        table = table.set_column(index, table.schema.field(name), column)
    entries = [node.entry for node, *_ in read_nodes(table)]
    assert {(entry.stop_reason, entry.trajectories) for entry in entries} == {(stop_reason, trajectories)}
