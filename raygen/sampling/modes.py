"""Modes: images at peaks of the tilted density, found uphill. They are no samples, but show at once what a node wants.

Chains may start near them.

At a peak of exp(b f(z)) N(z; 0, I) the gradient b grad f(z) - z is 0. From a chain's start, a draw from the reference,
each step goes a part of the way to where that holds: z <- z + e (b grad f(z) - z). It forgets its start as fast as it
climbs, in coordinates in which the reference is round, so that few steps are enough. Each step sees another view of the
image, moved and zoomed: what one alignment of the pixels alone would drive up is not followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raygen.errors import ScoreError, StoreError
from raygen.hmc import Kernel, Parameters, Streams, TiltRule, along_rows, check_alike
from raygen.networks import Views
from raygen.notation import Node
from raygen.sampling.settings import SamplingSettings
from raygen.sampling.targets import make_tilt_rule
from raygen.tilting import WhitenedScore

_RISE = 0.4
"""Fraction of the steps over which the tilt rises from zero, as in warm-up."""

_PART, _LAST_PART = 0.1, 0.02
"""Of the way in a step: in the first half of the steps, and in the last step, down to which it falls in the second
half. One step's view leads astray; their mean over the last fifty or so does not."""


@dataclass(frozen=True)
class Climb:
    """How far the way uphill is.

    Attributes:
        made: steps.
        position: z of each chain, (N, ...).
        before: where each chain last had a gradient, (N, ...). It goes back there when a step, at a tilt that has not
            risen far yet, leads to where its score is flat.
        open: whether a chain has met a gradient yet, (N,). Until then it is drawn anew from the reference.
        rule: of the tilt.
    """

    made: int
    position: Tensor
    before: Tensor
    open: Tensor
    rule: TiltRule


@contextmanager
def naming(nodes: Sequence[Node], chains: int) -> Iterator[None]:
    """Name the node in an error of one of its chains, so many of each side by side."""
    try:
        yield
    except ScoreError as error:
        if error.row is None:
            raise
        raise ScoreError(error.what, where=f"node {nodes[error.row // chains]}", right=error.right) from None


class ModeSeeker:
    """What climbs, for the chains of a unit's nodes. It holds only constants: climbs go in and come out.

    Args:
        nodes: of one layer and ending.
        density: of all their chains, side by side, with the plain score.
        streams: of their random numbers; only starts are drawn.
        settings: of the unit.
        steps: uphill.
    """

    def __init__(
        self, nodes: Sequence[Node], density: WhitenedScore, streams: Streams, settings: SamplingSettings, steps: int
    ) -> None:
        self.nodes = tuple(nodes)
        self.density = density
        self.streams = streams
        self.settings = settings
        self.steps = steps

    def begin(self) -> Climb:
        """Return the chains where they start.

        Raises:
            ScoreError: naming the node, if its score or gradient is not finite there.
        """
        start = self._start()
        with naming(self.nodes, self.streams.chains):
            gradient = Kernel().init(self.density, start).gradient
        rule = make_tilt_rule(self.settings, self.density.reference, gradient, len(self.nodes))
        return Climb(0, start, start, torch.zeros(len(start), dtype=torch.bool, device=start.device), rule)

    def step(self, climb: Climb) -> Climb:
        """Return the chains one step further."""
        gradient = self._gradient(climb)
        rule = climb.rule.observe(gradient)
        told = gradient.flatten(1).isfinite().all(1) & (gradient.flatten(1) != 0).any(1)
        is_open = climb.open | told
        rise = min(1.0, (climb.made + 1) / (_RISE * self.steps))
        tilt = along_rows(rise * self._of_chains(rule.tilt), gradient)
        there = climb.position + self._part(climb.made) * (tilt * gradient - climb.position)
        position = torch.where(along_rows(told, there), there, climb.before)
        before = torch.where(along_rows(told, there), climb.position, climb.before)
        if not bool(is_open.all()):
            anew = self.streams.noise(climb.made, self.density.reference.shape).momentum
            position = torch.where(along_rows(is_open, there), position, anew)
        return Climb(climb.made + 1, position, before, is_open, rule)

    def around(self, climb: Climb) -> Tensor:
        """Return where chains may start at the end of a climb: at the modes, with the reference's noise around them."""
        return climb.position + self._start()

    def parameters(self, climb: Climb) -> Parameters:
        """Return the tilt of each chain; there is no step size."""
        tilt = self._of_chains(climb.rule.tilt)
        return Parameters(torch.full_like(tilt, math.nan), tilt)

    def check(self, climb: Climb | None) -> None:
        """Refuse a climb of other nodes, chains or settings.

        Raises:
            StoreError: saying what does not fit.
        """
        if climb is None:
            raise StoreError("saved chains that draw", where="chain state", right="start the chains again")
        ones = torch.ones((len(self.nodes) * self.streams.chains, *self.density.reference.shape))
        ones = ones.to(self.streams.device)
        rule = make_tilt_rule(self.settings, self.density.reference, ones, len(self.nodes))
        check_alike(climb, replace(climb, position=ones, before=ones, open=ones[:, 0, 0, 0] > 0, rule=rule))

    def _start(self) -> Tensor:
        return self.streams.start(self.density.reference.shape, self.settings.superchains)

    def _gradient(self, climb: Climb) -> Tensor:
        """Return the gradient of the score of the view that is next in turn; the first is the image itself."""
        _, height, width = self.density.reference.shape
        view = Views.of(1, height, width, first=climb.made).to(self.streams.device)
        score = self.density.force or self.density.score
        return WhitenedScore(lambda x: score(view(x)), self.density.reference).gradient(climb.position)

    def _part(self, made: int) -> float:
        late = max(0.0, 2 * (made + 1) / self.steps - 1)
        return _PART + late * (_LAST_PART - _PART)

    def _of_chains(self, of_nodes: Tensor) -> Tensor:
        return of_nodes.repeat_interleave(self.streams.chains)
