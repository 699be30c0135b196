"""Which network, which node of it, and the node's score."""

from raygen.networks.batches import cut_for, score_nodes
from raygen.networks.dead import quiet_nodes
from raygen.networks.graph.cut import Cut, cut_network
from raygen.networks.graph.layers import Layer, list_layers
from raygen.networks.kernels.pooling import pool_in_pairs
from raygen.networks.network import Network, NetworkSettings, hash_weights, wrap_network
from raygen.networks.nodes import Node, node_label, read_node, sum_node
from raygen.networks.parsing import parse_nodes
from raygen.networks.scores import NodeScores, Precision
from raygen.networks.zoo.caffe import AlexNet, LeNet, caffe_alexnet, caffenet, lenet
from raygen.networks.zoo.factories import known_networks
from raygen.networks.zoo.loading import load_network
from raygen.networks.zoo.weights import read_description, save_checkpoint
from raygen.networks.zoo.zeiler_fergus import ZeilerFergusNet, zeiler_fergus

__all__ = [
    "AlexNet",
    "Cut",
    "Layer",
    "LeNet",
    "Network",
    "NetworkSettings",
    "Node",
    "NodeScores",
    "Precision",
    "ZeilerFergusNet",
    "caffe_alexnet",
    "caffenet",
    "cut_for",
    "cut_network",
    "hash_weights",
    "known_networks",
    "lenet",
    "list_layers",
    "load_network",
    "node_label",
    "parse_nodes",
    "pool_in_pairs",
    "quiet_nodes",
    "read_description",
    "read_node",
    "save_checkpoint",
    "score_nodes",
    "sum_node",
    "wrap_network",
    "zeiler_fergus",
]
