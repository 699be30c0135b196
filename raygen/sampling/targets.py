"""What nodes' chains sample: cuts, scores, references, random numbers; and which nodes no tilt can move."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from raygen.hmc import Diagnostics, Parameters, Streams, Trace
from raygen.networks import Cut, Network, NodeScores, cut_for, dead_nodes, score_nodes
from raygen.nodes import Node
from raygen.sampling.reference import Source, make_reference
from raygen.sampling.settings import SamplingSettings
from raygen.tilting import Reference, WhitenedScore

DEAD_IMAGES = 16
"""Draws from the reference by which it is judged whether a node is dead."""

UNKNOWN = Diagnostics(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 0)
"""The diagnostics of a node that was not sampled."""


class Targets:
    """The densities of one network's nodes; keeps the last cut, and every reference.

    Args:
        network: whose nodes.
        settings: what decides the samples.
        images: what the reference is fitted to, of the network's input shape, or a saved reference; None for noise.
        device: where the chains live.
    """

    def __init__(self, network: Network, settings: SamplingSettings, images: Source, device: torch.device) -> None:
        self._network = network
        self._settings = settings
        self._images = images
        self._device = device
        self._cut: Cut | None = None
        self._cut_as: tuple[str, str] | None = None
        self._references: dict[tuple[int, int, int], Reference] = {}

    def cut(self, node: Node) -> Cut:
        """Return the network up to the node's layer, for all nodes of its layer and ending."""
        wanted = node.layer, node.ending
        if self._cut is None or self._cut_as != wanted:
            self._cut, self._cut_as = cut_for(self._network, node, crop=self._settings.crop), wanted
        return self._cut

    def reference(self, shape: tuple[int, int, int]) -> Reference:
        """Return the reference for images (C, H, W)."""
        if shape not in self._references:
            reference = make_reference(self._settings, shape, self._network, self._images)
            self._references[shape] = reference.to(self._device)
        return self._references[shape]

    def scores(self, nodes: Sequence[Node], chains: int) -> NodeScores:
        """Return the scores of nodes of one layer and ending, each for ``chains`` rows side by side."""
        return score_nodes(self.cut(nodes[0]), nodes, chains).to(self._device)

    def density(self, scores: NodeScores) -> WhitenedScore:
        """Return the score in the reference's coordinates, with forces of the precision that the settings ask for."""
        force = None if self._settings.forces == "float32" else scores.with_precision(self._settings.forces)
        return WhitenedScore(scores, self.reference(scores.input_shape), force=force)

    def find_dead(self, nodes: Sequence[Node]) -> dict[Node, str]:
        """Return the constant and dead nodes among ``nodes``, which share a layer and an ending, each with the reason.

        They are judged by draws from the reference. A score that is not finite is no such case: it is an error where
        the node is sampled.
        """
        cut = self.cut(nodes[0])
        reference = self.reference(cut.input_shape)
        streams = Streams(
            (f"{self._settings.seed}/{nodes[0].layer}{nodes[0].ending}/quiet",), DEAD_IMAGES, self._device
        )
        found = dead_nodes(cut, nodes, reference.image(streams.start(reference.shape)))
        return {node: reason for node, reason in found.items() if "not finite" not in reason}

    def streams(self, nodes: Sequence[Node], chains: int) -> Streams:
        """Return the random numbers of nodes' chains, which depend on the run's seed and each node's name alone."""
        return Streams(tuple(f"{self._settings.seed}/{node}" for node in nodes), chains, self._device)


def no_trace(rows: int) -> tuple[Trace, Parameters]:
    """Return the record of chains that made no trajectory, and their parameters: a tilt of 0, and no step size."""
    none = torch.zeros((0, rows))
    trace = Trace(none, none.double(), torch.zeros((0, rows, 1)), none, none.bool())
    return trace, Parameters(torch.full((rows,), math.nan), torch.zeros(rows))
