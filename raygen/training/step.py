"""One step of one worker: its shard of the global batch to the same new parameters on every worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raygen.data import Batch
from raygen.training.losses import GenerativeTerms, discriminative_loss, generative_terms
from raygen.training.scoring import Scorer
from raygen.training.sharing import GradientBuffer


@dataclass(frozen=True)
class StepResult:
    """What a step found on the global batch; equal on every worker, and left on the device.

    Attributes:
        loss: scalar.
        terms: normalisers, importance weights and counts of the batch.
    """

    loss: Tensor
    terms: GenerativeTerms


@dataclass(frozen=True)
class Recipe:
    """How a step is to be made.

    Attributes:
        weight: of the generative loss; the rest is the discriminative one's.
        scorer: how images become scores.
        micro_batch: images that pass through the network at once; None for all of the shard.
        clip_norm: largest norm of the global gradient; None for any.
    """

    weight: float
    scorer: Scorer
    micro_batch: int | None = None
    clip_norm: float | None = None


def training_step(
    module: nn.Module,
    batch: Batch,
    recipe: Recipe,
    *,
    gradients: GradientBuffer,
    optimiser: torch.optim.Optimizer,
) -> StepResult:
    """Take one step along the gradient of the global batch; every worker must take it, with or without images.

    Args:
        module: in training mode; changed in place.
        batch: this worker's shard.
        recipe: which loss, and how.
        gradients: of the module's parameters.
        optimiser: its rates are set.
    """
    gradients.zero()
    scored = _pieces(module, batch, recipe, gradients)
    loss, terms = _objective(scored.scores, batch.labels, recipe.weight)
    if len(batch.labels):
        scored.backward(loss)
    gradients.sum_over_processes()
    if recipe.clip_norm is not None:
        gradients.clip(recipe.clip_norm)
    optimiser.step()
    return StepResult(loss.detach(), terms)


def _objective(scores: Tensor, labels: Tensor, weight: float) -> tuple[Tensor, GenerativeTerms]:
    """Return the loss of the global batch, and its normalisers, reported even where they do not train."""
    terms = generative_terms(scores, labels)
    if weight == 1:
        return terms.loss, terms
    loss = discriminative_loss(scores, labels)
    return (loss if weight == 0 else weight * terms.loss + (1 - weight) * loss), terms


@dataclass(frozen=True)
class _Scored:
    """The scores (n, C) of a shard, and how the gradient of their loss goes back into the network."""

    scores: Tensor
    backward: Callable[[Tensor], None]


def _pieces(module: nn.Module, batch: Batch, recipe: Recipe, gradients: GradientBuffer) -> _Scored:
    size, n = recipe.micro_batch, len(batch.labels)
    if size is None or n <= size:

        def whole(loss: Tensor) -> None:
            gradients.expect()
            loss.backward()  # type: ignore[no-untyped-call]

        return _Scored(recipe.scorer.scores(module, batch.images), whole)
    # The normaliser needs the scores of the whole batch before the first backward pass. So all scores come first,
    # without a graph; then each piece goes forward once more, with the same random numbers (dropout).
    pieces = batch.images.split(size)  # type: ignore[no-untyped-call]
    statistics = [buffer.clone() for buffer in module.buffers()]
    before: list[_RandomState] = []
    rows: list[Tensor] = []
    with torch.no_grad():
        for piece in pieces:
            before.append(_RandomState.now(piece.device))
            rows.append(recipe.scorer.scores(module, piece))
        # Running statistics are to see each image once.
        for buffer, value in zip(module.buffers(), statistics, strict=True):
            buffer.copy_(value)
    scores = torch.cat(rows).requires_grad_()

    def in_pieces(loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        assert scores.grad is not None
        for piece, state, gradient in zip(pieces, before, scores.grad.split(size), strict=True):  # type: ignore[no-untyped-call]
            state.restore()
            found = recipe.scorer.scores(module, piece)
            if piece is pieces[-1]:
                gradients.expect()
            found.backward(gradient)  # type: ignore[no-untyped-call]

    return _Scored(scores, in_pieces)


@dataclass(frozen=True)
class _RandomState:
    """Where the generators that a network draws from stand."""

    cpu: Tensor
    cuda: Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device) -> _RandomState:
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda, device)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
