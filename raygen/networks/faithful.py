"""Cuts whose scores are those of the user's own network: each shortcut is checked, and not taken where it is wrong."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from raygen.errors import NetworkError
from raygen.networks.graph.cut import Cut, cut_network, own_module, plain_cut
from raygen.networks.graph.plain import copy_module, first_real, forward_of
from raygen.networks.graph.tracer import is_leaf
from raygen.networks.network import Network
from raygen.networks.readout import at_position
from raygen.networks.scores import NodeScores, score_nodes
from raygen.notation import Node

log = logging.getLogger(__name__)

_SCALES = (1.0, 0.5, 2.0, 1.0)
"""Of the images that scores are compared at: where a network mixes its images, these do not look alike."""

_BOUND = 1e-2
"""Relative difference of scores, or of gradients, that is no round-off; that of TF32 stays below 2e-3."""

_KINKS = 0.5
"""Relative difference that kinks alone may make; what is further off, or fails, is no matter of round-off."""

_EXACT = 1e-6
"""The same in float64."""

_FORCE_BOUND = 0.7
"""Relative difference of a force from the gradient that still leads uphill; bfloat16 differs by 0.01 to 0.3."""


@dataclass(frozen=True)
class _Scored:
    """Scores of images, and their gradients to a cut's input.

    Attributes:
        score: (N,) float64.
        gradient: (N, C, h, w) float64; NaN where there is none, as behind a step in place that autograd refuses.
        behind_relu: whether these are a block's, after its last ReLU, where others are before it.
    """

    score: Tensor
    gradient: Tensor
    behind_relu: bool = False

    def differs(self, other: _Scored, x: Tensor) -> float:
        """Return the larger one of the relative differences of scores and gradients at ``x``; infinite if not finite.

        Scores are compared with what ``other`` changes by over such images, gradients with its longest one.
        """
        if len(x) == 0:
            return 0.0
        longest = _lengths(other.gradient).max()
        usual = longest.nan_to_num() * x.double().pow(2).mean().sqrt()
        score = _relative((self.score - other.score).abs().max(), torch.maximum(other.score.abs().max(), usual))
        if longest.isnan():
            return score
        return max(score, _relative(_lengths(self.gradient - other.gradient).max(), longest))

    def rows(self, chosen: Tensor) -> _Scored:
        """Return those of some images."""
        return _Scored(self.score[chosen], self.gradient[chosen])


def cut_for(network: Network, node: Node, *, crop: bool = True) -> Cut:
    """Cut ``network`` for ``node`` and all others of its layer and ending, so that the scores are the network's own.

    The finished scores and their gradients are compared with what the network itself responds to images one by one.
    Where a crop is wrong, the whole image is taken; where the cut is, the network is run as it is, see ``Cut.plain``.

    Args:
        network: whose node.
        node: one of them.
        crop: whether to crop to the receptive field; a position or the mean of the whole map always needs the whole.

    Raises:
        NodeError: see :func:`cut_network`.
        NetworkError: if the network fails, draws random numbers, or can be run neither cut nor as it is.
    """
    whole = node.position is not None or node.mean
    cut = cut_network(network, node.layer, crop=crop and not whole, after=node.after)
    last = cut.channels - 1
    nodes = [replace(node, channel=channel, terms=()) for channel in sorted({0, min(node.channel, last), last})]
    return faithful_cut(network, cut, nodes, _part(cut, _noise(network)))


def faithful_cut(network: Network, cut: Cut, nodes: Sequence[Node], x: Tensor) -> Cut:
    """Return ``cut``, or another of the same layer, so that scores of ``nodes`` at ``x`` are the network's own.

    Args:
        network: what was cut.
        cut: of the nodes' layer and ending.
        nodes: at least one.
        x: (N, C, h, w), the cut's inputs, such as draws from the reference.

    Raises:
        NetworkError: if the network fails, draws random numbers, or can be run neither cut nor as it is.
    """
    rows = [nodes[index % len(nodes)] for index in range(len(x))]
    images = _embedded(network, cut, _scaled(x))
    own = _own(network, cut, rows, images)
    off = _off(network, cut, rows, images, own)
    if off <= _BOUND:
        return cut
    for other in _others(network, cut):
        if _off(network, other, rows, images, _own(network, other, rows, images)) <= _BOUND:
            why = "it fails otherwise" if math.isinf(off) else f"its scores would be off by {off:.2g} of their size"
            note = f"{_where(network, cut)}: {_way(other)}; {why}"
            log.warning(note)
            return replace(other, note=note)
    what = f"its scores are off by {off:.2g} of their size, cut or not"
    raise NetworkError(what, where=_where(network, cut), right="name another layer")


def check_alone(network: Network, layers: Sequence[str], images: Tensor | None = None) -> None:
    """Refuse a network whose layers respond to an image otherwise than to the same image again, or among others.

    A network that fails with more than one image is not refused.

    Args:
        network: is run a few times, as it is.
        layers: dotted names of those that matter.
        images: (N, C, H, W), N > 1, what it is run with; some noise if None.

    Raises:
        NetworkError: if it fails, or a layer is such a one; it is named.
    """
    like = first_real(network.module)
    images = _scaled(_noise(network)[:2] if images is None else images).to(like)
    first, again = ([_responses(network, layers, image[None]) for image in images] for _ in range(2))
    try:
        among = _responses(network, layers, images)
    except NetworkError:
        among = {}  # it takes one image at a time
    for layer in layers:
        where = f"layer {layer} of network {network.name}"
        alone = [found[layer] for found in (*first, *again) if layer in found]
        if len(alone) < 2 * len(images):
            continue
        if any(response.drawn for response in alone):
            raise NetworkError(_DRAWS, where=where, right=_STILL)
        once, twice = torch.cat([part.value for part in alone]).tensor_split(2)
        if _unlike(once, twice):
            raise NetworkError(_CHANGES, where=where, right=_STILL)
        if layer in among and _unlike(once, among[layer].value):
            what = "its response to an image depends on the other images of the batch"
            right = "let each image be computed by itself, such as by batch norm with running statistics"
            raise NetworkError(what, where=where, right=right)


def leads_uphill(scores: nn.Module, force: nn.Module, x: Tensor) -> bool:
    """Say whether the gradients of ``force`` at ``x``, the inputs of all rows, are about those of ``scores``."""
    try:
        exact, cheap = (_scored(part, x).gradient for part in (scores, force))
    except Exception:  # the network may be the user's code, and not take this precision
        return False
    sloped = _lengths(exact) > 0  # dead nodes are found elsewhere
    off = (_lengths(cheap - exact) / _lengths(exact))[sloped]
    return len(off) == 0 or bool(off.nan_to_num(nan=math.inf).median() <= _FORCE_BOUND)


_DRAWS = "draws random numbers in evaluation mode"
_CHANGES = "responds to the same image otherwise the second time"
_STILL = "let its response depend on the image alone, such as by dropout(x, training=self.training)"


def _others(network: Network, cut: Cut) -> list[Cut]:
    """Return what else may be tried, the fastest first."""
    whole = [cut_network(network, cut.layer, crop=False, after=cut.after)] if cut.cropped else []
    plain = plain_cut(network, cut)
    return [*whole, *([] if plain is None else [plain, replace(plain, one_by_one=True)])]


def _way(cut: Cut) -> str:
    if cut.one_by_one:
        return "the network is run as it is, one image at a time"
    return "the network is run as it is" if cut.plain else "the whole image is taken"


def _where(network: Network, cut: Cut) -> str:
    return f"layer {cut.layer} of network {network.name}"


def _noise(network: Network) -> Tensor:
    """Return some images as the network is given them."""
    pixels = torch.rand(len(_SCALES), *network.input_shape, generator=torch.Generator().manual_seed(0))
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (network.mean, network.std))
    return (pixels - mean) / std


def _scaled(x: Tensor) -> Tensor:
    return x * x.new_tensor([_SCALES[index % len(_SCALES)] for index in range(len(x))])[:, None, None, None]


def _embedded(network: Network, cut: Cut, x: Tensor) -> Tensor:
    """Return whole images that hold ``x`` where the cut's crop is, among noise of the same size."""
    if not cut.cropped:
        return x
    noise = torch.randn((len(x), *network.input_shape), generator=torch.Generator().manual_seed(0)).to(x)
    images = x.mean() + x.std() * noise
    (top, left), (height, width) = cut.origin, cut.input_shape[1:]
    images[:, :, top : top + height, left : left + width] = x
    return images


def _part(cut: Cut, images: Tensor) -> Tensor:
    (top, left), (height, width) = cut.origin, cut.input_shape[1:]
    return images[:, :, top : top + height, left : left + width]


def _own(network: Network, cut: Cut, rows: Sequence[Node], images: Tensor) -> _Scored:
    """Return the scores of ``rows`` by the network as it is, one image at a time; of a block, after its last ReLU."""
    module = own_module(network, cut).to(images.device)
    like = first_real(module)
    scores, gradients, again = [], [], []
    before = _generators()
    for node, image in zip(rows, images, strict=True):
        x = image[None].to(like.dtype, copy=True).requires_grad_()
        with torch.enable_grad(), forward_of(_where(network, cut)):
            score = _score(cut, node, module(x.clone()))
        scores.append(score.detach().double())
        gradients.append(_gradient(score, x))
    if _generators() != before:
        raise NetworkError(_DRAWS, where=_where(network, cut), right=_STILL)
    with torch.no_grad(), forward_of(_where(network, cut)):
        for node, image in zip(rows, images, strict=True):
            again.append(_score(cut, node, module(image[None].to(like.dtype, copy=True))).double())
    if _unlike(torch.stack(scores), torch.stack(again)):
        raise NetworkError(_CHANGES, where=_where(network, cut), right=_STILL)
    behind = cut.before_relu and not is_leaf(network.module.get_submodule(cut.layer))
    return _Scored(torch.stack(scores), _part(cut, torch.cat(gradients)).double(), behind)


def _score(cut: Cut, node: Node, response: Tensor) -> Tensor:
    """Return the score of ``node`` by the whole network's response to one image."""
    position = node.position or cut.position
    if response.ndim == 4 and position is None and not node.mean and not cut.is_classes:
        position = response.shape[2] // 2, response.shape[3] // 2
    responses = at_position(response, position)[0]
    if not node.terms:
        return responses[node.channel]
    return torch.stack([weight * responses[channel] for channel, weight in node.terms]).sum()


def _off(network: Network, cut: Cut, rows: Sequence[Node], images: Tensor, own: _Scored) -> float:
    """Return how far the finished scores are off, infinite where they fail; 0 where it is round-off alone."""
    if own.behind_relu and (rows[0].mean or (cut.is_classes and rows[0].position is None)):
        return 0.0  # a mean of what the ReLU stops; the cut itself has been compared
    try:
        scores = score_nodes(cut, rows).to(images.device)
        off = _difference(cut, scores, images, own)
    except Exception:  # the network may be the user's code
        return math.inf
    if not _BOUND < off <= _KINKS:
        return off
    try:  # A gradient jumps where round-off moves a value past the kink of a ReLU.
        wide = replace(network, module=copy_module(network.module).double())
        exact = _own(wide, cut, rows, images.double())
        return 0.0 if _difference(cut, scores.with_precision("float64"), images.double(), exact) <= _EXACT else off
    except Exception:
        return off


def _difference(cut: Cut, scores: NodeScores, images: Tensor, own: _Scored) -> float:
    # A score that is not finite is refused where it is sampled, by its node's name. Of a block, what its ReLU (or
    # ReLU6) stops is not seen behind it.
    compared = own.score.isfinite()
    if own.behind_relu:
        compared &= (own.score != 0) & (own.score != 6)
    x = _part(cut, images)
    return _scored(scores, x).rows(compared).differs(own.rows(compared), x[compared])


def _scored(scores: nn.Module, x: Tensor) -> _Scored:
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        found = scores(x)
    return _Scored(found.detach().double(), _gradient(found.sum(), x).double())


def _gradient(score: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of ``score``; NaN where a step in place changed what autograd needs."""
    if not score.requires_grad:
        return torch.zeros_like(x)
    try:
        (gradient,) = torch.autograd.grad(score, x, allow_unused=True)
    except RuntimeError:
        return torch.full_like(x, math.nan)
    return torch.zeros_like(x) if gradient is None else gradient


@dataclass(frozen=True)
class _Response:
    """What a layer puts out, and whether random numbers were drawn until then."""

    value: Tensor
    drawn: bool


def _responses(network: Network, layers: Sequence[str], x: Tensor) -> dict[str, _Response]:
    """Return the first response of each of ``layers``, of those that put out one tensor."""
    found: dict[str, _Response] = {}
    before = _generators()

    def note(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and name not in found:
            found[name] = _Response(output.detach().clone(), _generators() != before)

    handles = [network.module.get_submodule(name).register_forward_hook(partial(note, name)) for name in layers]
    try:
        with torch.no_grad(), forward_of(f"network {network.name}"):
            network.module(x.clone())
    finally:
        for handle in handles:
            handle.remove()
    return found


def _generators() -> tuple[object, ...]:
    """Return the states of the generators that a forward may draw from."""
    cuda = torch.cuda.get_rng_state().numpy().tobytes() if torch.cuda.is_available() else b""
    _, keys, position, *_ = np.random.get_state(legacy=True)
    return torch.get_rng_state().numpy().tobytes(), cuda, random.getstate(), np.asarray(keys).tobytes(), position


def _unlike(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return True
    finite = first.isfinite() & second.isfinite()
    off, scale = (first - second)[finite].abs(), first[finite].abs()
    return len(off) > 0 and _relative(off.max(), scale.max()) > _BOUND


def _lengths(gradient: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(gradient.double().flatten(1), dim=1)
    return lengths


def _relative(off: Tensor, scale: Tensor) -> float:
    value = float(off / scale) if float(off) else 0.0
    return math.inf if math.isnan(value) else value
