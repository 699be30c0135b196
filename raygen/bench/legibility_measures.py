"""What a second network, and the sampled one, make of a node's images: ranks, specificity, diversity, legibility.

Images are (N, C, H, W) with pixels from 0 to 1. Each network sees them at its own size and in its own units.

The machine interpretability score follows Zimmermann, Klein and Brendel, "Measuring Mechanistic Interpretability at
Scale Without Humans" (2024): of two natural images, one that excites the node and one that does not, which one is
closer to the images that explain the node? The distance is LPIPS-like (Zhang et al., 2018): of features normalised at
each place. Here they are the second network's and averaged over the image, since a thing may stand anywhere in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from raygen.networks import Network, list_layers

_LAYERS = 4
"""Convolutions whose features count, spread evenly over the second half of the network: LPIPS takes five, of all."""

_AT_ONCE = 50
"""Images of one pass, of several hundred pixels a side: some hundred megabytes of activations."""


@dataclass(frozen=True)
class Queries:
    """Numbers of natural images, by how strongly a node responds to them.

    Attributes:
        shown: strong ones, for comparison with images of other kinds.
        strong: of the questions, as strong as those shown and none of them.
        weak: of the questions, the weakest ones.
    """

    shown: Tensor
    strong: Tensor
    weak: Tensor


def ranks(responses: Tensor, channels: Tensor) -> Tensor:
    """Return the rank of a channel among all, 0 for the strongest, shape (N,); of equal ones, the middle.

    Args:
        responses: (N, channels).
        channels: (N,) int64.
    """
    own = responses.gather(1, channels[:, None])
    return (responses > own).sum(1) + ((responses == own).sum(1) - 1) / 2


def top(found: Tensor, count: int) -> float:
    """Return the share of ranks that are among the first ``count``."""
    return float((found < count - 0.5).float().mean())


def standardised(responses: Tensor, natural: Tensor) -> Tensor:
    """Return responses (N, channels) less the mean of those to natural images, over their standard deviation.

    Without it, a channel whose responses are large to everything would rank first for every image.
    """
    spread = natural.std(0).clamp(min=torch.finfo(natural.dtype).tiny)
    return (responses - natural.mean(0)) / spread


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Return the perceptual distances of images with features (N, D) and (M, D), shape (N, M)."""
    # Not torch.cdist, whose matrix products leave a distance of an image to itself.
    return torch.stack([(each - second).square().sum(1) for each in first])


def diversity(features: Tensor) -> float:
    """Return the mean distance of two different images of a node, from features (N, D); NaN for one image."""
    count = len(features)
    return float(distances(features, features).sum() / (count * (count - 1))) if count > 1 else float("nan")


def interpretability(features: Tensor, strong: Tensor, weak: Tensor) -> float:
    """Return the share of pairs of a strong and a weak natural image of which the strong one is closer.

    Args:
        features: of the node's images, (N, D); the mean distance to them counts.
        strong: of natural images that excite the node, (S, D).
        weak: of those that do not, (W, D). Every strong one meets every weak one; of equal distances half counts.
    """
    near, far = (distances(queries, features).mean(1) for queries in (strong, weak))
    right = (near[:, None] < far).float() + 0.5 * (near[:, None] == far).float()
    return float(right.mean())


def choose_queries(responses: Tensor, count: int) -> Queries:
    """Choose ``count`` natural images of each sort by a node's responses (M,); M is at least 3 times ``count``."""
    order = responses.argsort(descending=True, stable=True)
    return Queries(order[0 : 2 * count : 2], order[1 : 2 * count : 2], order[-count:])


@dataclass(frozen=True)
class Viewer:
    """A network that looks at images that need not be made for it.

    Attributes:
        network: on the CPU or another device, where the images are.
        layers: convolutions whose features decide distances.
    """

    network: Network
    layers: tuple[str, ...]

    @classmethod
    def of(cls, network: Network) -> Viewer:
        """Return a viewer whose distances are those of convolutions from the middle of the network to its end."""
        names = [layer.name for layer in list_layers(network) if layer.kind == "conv" and not layer.is_classes]
        late = names[len(names) // 2 :]
        chosen = {round(at * (len(late) - 1) / max(1, _LAYERS - 1)) for at in range(_LAYERS)} if late else set()
        return cls(network, tuple(late[at] for at in sorted(chosen)))

    def inputs(self, images: Tensor) -> Tensor:
        """Return images at the network's size and in its units; grey ones and colour ones as it has them."""
        channels, height, width = self.network.input_shape
        if images.shape[1] != channels:
            images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        if images.shape[2:] != (height, width):
            images = functional.interpolate(
                images, (height, width), mode="bilinear", antialias=True, align_corners=False
            )
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.network.mean, self.network.std))
        return (images - mean) / std

    def responses(self, images: Tensor) -> Tensor:
        """Return the responses of the network's classes, (N, classes)."""
        with torch.no_grad():
            return torch.cat([self.network.module(self.inputs(part)) for part in torch.split(images, _AT_ONCE)])

    def features(self, images: Tensor) -> Tensor:
        """Return (N, D): what is there of each feature, whose distances are those of the images.

        The hooks are there during a call only.
        """
        with torch.no_grad():
            return torch.cat([self._features(self.inputs(part)) for part in torch.split(images, _AT_ONCE)])

    def _features(self, x: Tensor) -> Tensor:
        kept: dict[str, Tensor] = {}
        modules = {name: self.network.module.get_submodule(name) for name in self.layers}
        handles = [module.register_forward_hook(_Hook(kept, name)) for name, module in modules.items()]
        try:
            self.network.module(x)
        finally:
            for handle in handles:
                handle.remove()
        return torch.cat([kept[name] for name in self.layers], 1)


class _Hook:
    """Keeps the normalised features of a layer, averaged over the image."""

    def __init__(self, kept: dict[str, Tensor], name: str) -> None:
        self._kept, self._name = kept, name

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], response: Tensor) -> None:
        self._kept[self._name] = functional.normalize(response.relu(), dim=1).mean((2, 3))
