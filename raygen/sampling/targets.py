"""What nodes' chains sample: cuts, scores, references, random numbers; and which nodes no tilt can move."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch

from raygen.hmc import Diagnostics, Parameters, Streams, Trace
from raygen.networks import (
    Cut,
    Network,
    Scores,
    Views,
    ViewScores,
    check_alone,
    computes_bfloat16,
    cut_for,
    dead_nodes,
    faithful_cut,
    leads_uphill,
    score_nodes,
)
from raygen.notation import Node
from raygen.sampling.reference import Source, make_reference
from raygen.sampling.settings import SamplingSettings
from raygen.tilting import ContrastTilt, FixedTilt, Reference, WhitenedScore

log = logging.getLogger(__name__)

FAITHFUL_IMAGES = 4
"""Draws from the reference at which finished scores are compared with the network's own."""

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
        self._forces_lead: bool | None = None  # of this cut, where it is asked
        self._references: dict[tuple[int, int, int], Reference] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Which shortcuts are not taken for the last cut, and why."""
        cut = () if self._cut is None or not self._cut.note else (self._cut.note,)
        return cut if self._forces_lead is not False else (*cut, self._forces_note)

    def cut(self, node: Node) -> Cut:
        """Return the network up to the node's layer, for all nodes of its layer and ending.

        Raises:
            NetworkError: if the network fails, or its response to an image depends on other images or on chance.
        """
        wanted = node.layer, node.ending
        if self._cut is None or self._cut_as != wanted:
            cut = cut_for(self._network, node, crop=self._settings.crop)
            cut = faithful_cut(self._network, cut, [node], self._images_of(cut, node, "check", FAITHFUL_IMAGES))
            if cut.one_by_one:
                images = self._images_of(cut, node, "check", FAITHFUL_IMAGES)
                check_alone(self._network, [node.layer], images)
            self._cut, self._cut_as = cut, wanted
            self._forces_lead = None
        return self._cut

    def reference(self, shape: tuple[int, int, int]) -> Reference:
        """Return the reference for images (C, H, W)."""
        if shape not in self._references:
            reference = make_reference(self._settings, shape, self._network, self._images)
            self._references[shape] = reference.to(self._device)
        return self._references[shape]

    def scores(self, nodes: Sequence[Node], chains: int) -> Scores:
        """Return the scores of nodes of one layer and ending, each for ``chains`` rows side by side."""
        cut = self.cut(nodes[0])
        plain = score_nodes(cut, nodes, chains).to(self._device)
        if self._settings.views == 0:
            return plain
        views = Views.of(self._settings.views, *cut.input_shape[1:]).to(self._device)
        each = torch.arange(len(plain.channels), device=self._device).repeat_interleave(len(views))
        return ViewScores(plain.rows(each), plain, views)

    def density(self, scores: Scores) -> WhitenedScore:
        """Return the score in the reference's coordinates, with forces of the precision that the settings ask for.

        Where these lead elsewhere, as of a network that does not take that precision, they are those of the score.
        """
        reference = self.reference(scores.input_shape)
        if self._settings.forces == "float32" or self._forces_lead is False:
            return WhitenedScore(scores, reference)
        force = scores.with_precision(self._settings.forces)
        if self._forces_lead is None:
            self._forces_lead = self._lead_uphill(scores, force, reference)
        return WhitenedScore(scores, reference, force=force if self._forces_lead else None)

    def _lead_uphill(self, scores: Scores, force: Scores, reference: Reference) -> bool:
        few = torch.arange(min(FAITHFUL_IMAGES, len(scores.channels)), device=self._device)
        streams = Streams((f"{self._settings.seed}/forces",), len(few), self._device)
        if self._settings.forces == "bfloat16" and not computes_bfloat16(self._device):
            log.warning("this processor makes bfloat16 of float32: --forces float32 is faster here")
        leads = leads_uphill(scores.rows(few), force.rows(few), reference.image(streams.start(reference.shape)))
        if not leads:
            log.warning(self._forces_note)
        return leads

    @property
    def _forces_note(self) -> str:
        return f"network {self._network.name}: forces in {self._settings.forces} lead elsewhere; float32 is taken"

    def find_dead(self, nodes: Sequence[Node]) -> dict[Node, str]:
        """Return the constant and dead nodes among ``nodes``, which share a layer and an ending, each with the reason.

        They are judged by draws from the reference. A score that is not finite is no such case: it is an error where
        the node is sampled.
        """
        cut = self.cut(nodes[0])
        found = dead_nodes(cut, nodes, self._images_of(cut, nodes[0], "quiet", DEAD_IMAGES))
        return {node: reason for node, reason in found.items() if "not finite" not in reason}

    def _images_of(self, cut: Cut, node: Node, purpose: str, count: int) -> torch.Tensor:
        """Return draws from the reference, of the cut's input shape, for all nodes of a layer and ending."""
        reference = self.reference(cut.input_shape)
        streams = Streams((f"{self._settings.seed}/{node.layer}{node.ending}/{purpose}",), count, self._device)
        return reference.image(streams.start(reference.shape))

    def streams(self, nodes: Sequence[Node], chains: int) -> Streams:
        """Return the random numbers of nodes' chains, which depend on the run's seed and each node's name alone."""
        return Streams(tuple(f"{self._settings.seed}/{node}" for node in nodes), chains, self._device)


def make_tilt_rule(
    settings: SamplingSettings, reference: Reference, gradient: torch.Tensor, nodes: int
) -> FixedTilt | ContrastTilt:
    """Return what decides the tilts of so many nodes, whose chains start with these gradients.

    Raises:
        ScoreError: if a gradient is not finite.
    """
    if settings.tilt is not None:
        return FixedTilt(gradient.new_full((nodes,), settings.tilt))
    assert settings.contrast is not None  # the settings see to it
    return ContrastTilt.begin(settings.contrast, reference, gradient, nodes)


def no_trace(rows: int) -> tuple[Trace, Parameters]:
    """Return the record of chains that made no trajectory, and their parameters: a tilt of 0, and no step size."""
    none = torch.zeros((0, rows))
    trace = Trace(none, none.double(), torch.zeros((0, rows, 1)), none, none.bool())
    return trace, Parameters(torch.full((rows,), math.nan), torch.zeros(rows))
