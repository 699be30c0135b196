"""A network cut after a layer, and cropped to what one response of that layer sees."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from raygen.errors import NetworkError, NodeError, closest
from raygen.networks.graph.anatomy import Anatomy, examine
from raygen.networks.graph.layers import Layer, layers_of
from raygen.networks.graph.plain import copy_module, first_real
from raygen.networks.graph.rewriting import crop_graph
from raygen.networks.graph.tracer import is_leaf
from raygen.networks.graph.tracing import end_graph
from raygen.networks.network import Network


@dataclass(frozen=True)
class Cut:
    """What leads from the input to one layer, and nothing above it.

    Attributes:
        layer: dotted name of the layer.
        module: maps (N, C, h, w) to the layer's response, (N, channels) or (N, channels, rows, columns). Of a layer
            that ends with a ReLU the response is the ReLU's *input*, else dead units have no gradient. Frozen, in
            evaluation mode, private.
        input_shape: (C, h, w).
        map_size: (rows, columns) of the response, None where it has no map.
        channels: number of channels of the response.
        is_classes: whether the channels are the network's classes.
        cropped: whether (h, w) is the receptive field of one response, without padding.
        after: whether the response is the output of the layer's ReLU after all.
        position: (row, column) of the whole map's response that a cropped one equals; None where it is not cropped.
        origin: (row, column) in the whole image of the crop's first pixel.
        before_relu: whether the response is what the layer's ReLU is given.
        plain: whether the module is the network as it is, stopped at the layer, for which no shortcut may be taken.
        one_by_one: whether it may be given one image at a time only.
        note: which shortcuts are not taken, and why; mostly empty.
    """

    layer: str
    module: nn.Module
    input_shape: tuple[int, int, int]
    map_size: tuple[int, int] | None
    channels: int
    is_classes: bool
    cropped: bool
    after: bool = False
    position: tuple[int, int] | None = None
    origin: tuple[int, int] = (0, 0)
    before_relu: bool = False
    plain: bool = False
    one_by_one: bool = False
    note: str = ""

    @property
    def place(self) -> tuple[int, int] | None:
        """``position`` by the name that it had until schema 3, which scripts of users hold."""
        return self.position


def cut_network(network: Network, layer: str, *, crop: bool = True, after: bool = False) -> Cut:
    """Cut ``network`` after ``layer``; the network is not changed.

    With ``crop``, a layer with a map is cut down to its receptive field and to what a response inside the image, where
    it sees no padding, needs of every map on the way: then the response is 1x1, and equals the response of the whole
    network there to round-off, whether its paths branch or not. That is checked on a random image. Where it does not
    hold, where a response sees the whole image (as after a pooling over all of it), where every response sees padding,
    or where the layer holds the classes, the input keeps its full size.

    Args:
        network: whose layer.
        layer: dotted name.
        crop: whether to crop.
        after: of a layer that ends with a ReLU, take its output.

    Raises:
        NodeError: if there is no such layer, or none of its ReLU with ``after``.
        NetworkError: if the network does otherwise than its graph says, and the layer is no module of its own.
    """
    examined = examine(network)
    anatomy = examined if isinstance(examined, Anatomy) else None
    layers = {known.name: known for known in layers_of(network, examined)}
    if layer not in layers:
        raise NodeError(f"unknown layer {layer!r}", where=f"network {network.name}", right=closest(layer, layers))
    if after and not layers[layer].rectified:
        raise NodeError("ends with no ReLU", where=f"layer {layer}", right="leave @relu out")
    image = _random_image(network)
    module = _cut_graph(network, anatomy, layers[layer], image, after=after)
    with torch.no_grad():
        response = module(image)
    if crop and not layers[layer].is_classes and anatomy is not None and isinstance(module, fx.GraphModule):
        cropped = _crop(network, anatomy, layers[layer], image, response, after=after)
        if cropped is not None:
            return cropped
    map_size = (response.shape[2], response.shape[3]) if response.ndim == 4 else None
    is_classes = layers[layer].is_classes
    return Cut(
        layer, module, network.input_shape, map_size, response.shape[1], is_classes, cropped=False, after=after,
        before_relu=layers[layer].rectified and not after,
    )  # fmt: skip


def plain_cut(network: Network, cut: Cut) -> Cut | None:
    """Return ``cut`` of the whole network, run as it is; None for the input of a block's last ReLU, which has no hook.

    Args:
        network: what was cut.
        cut: any cut of it.
    """
    if cut.before_relu and not is_leaf(network.module.get_submodule(cut.layer)):
        return None
    module = own_module(network, cut)
    like = first_real(module)
    with torch.no_grad():
        response = module(like.new_zeros(1, *network.input_shape))
    map_size = (response.shape[2], response.shape[3]) if response.ndim == 4 else None
    return replace(
        cut, module=module, input_shape=network.input_shape, map_size=map_size, cropped=False, position=None,
        origin=(0, 0), plain=True,
    )  # fmt: skip


def own_module(network: Network, cut: Cut) -> nn.Module:
    """Return a copy of the network as it is that puts out the response of a cut's layer, of a block after its ReLU."""
    leaf = is_leaf(network.module.get_submodule(cut.layer))
    return _StopAt(copy_module(network.module), cut.layer, before=cut.before_relu and leaf).eval()


def _cut_graph(network: Network, anatomy: Anatomy | None, layer: Layer, image: Tensor, *, after: bool) -> nn.Module:
    """Return the graph up to the layer, or the network itself, stopped there, where the graph is another function."""
    before = layer.rectified and not after
    leaf = is_leaf(network.module.get_submodule(layer.name))
    if anatomy is not None and layer.name in anatomy.traced.ends:
        module = end_graph(anatomy.traced.module, anatomy.end(layer.name, after=after))
        # A block has no hook before its last step: its response is compared after that.
        checked = module if leaf else end_graph(anatomy.traced.module, anatomy.traced.ends[layer.name])
        if _same_function(checked, _StopAt(network.module, layer.name, before=before and leaf), image):
            return module
        if not leaf:
            what = f"{layer.name} computes another value than its graph"
            raise NetworkError(what, where=f"network {network.name}", right="name one of the layers in it")
    return _StopAt(copy_module(network.module), layer.name, before=before).eval()


def _crop(
    network: Network, anatomy: Anatomy, layer: Layer, image: Tensor, response: Tensor, *, after: bool
) -> Cut | None:
    last = anatomy.end(layer.name, after=after)
    field = anatomy.fields.get(last)
    if field is None or field.channels_last or response.ndim != 4:
        return None
    rows, columns = response.shape[2:]
    position = field.interior((image.shape[2], image.shape[3]), (rows, columns))
    if position is None:
        return None
    module = crop_graph(anatomy.traced, last, position, anatomy.fields, anatomy.shapes)
    top, left = field.corner(position)
    height, width = field.size
    part = image[:, :, top : top + height, left : left + width]
    whole = response[:, :, position[0] : position[0] + 1, position[1] : position[1] + 1]
    if module is None or not _agrees(module, part, whole, scale=response):
        return None
    shape = (network.input_shape[0], height, width)
    return Cut(
        layer.name, module, shape, (1, 1), response.shape[1], is_classes=False, cropped=True, after=after,
        position=position, origin=(top, left), before_relu=layer.rectified and not after,
    )  # fmt: skip


def _agrees(module: nn.Module, part: Tensor, whole: Tensor, *, scale: Tensor) -> bool:
    try:
        with torch.no_grad():
            return _same_response(module(part.clone()), whole, scale)
    except Exception:  # a step may hold the size of a whole map, such as a reshaping to given numbers
        return False


def _same_function(graph: nn.Module, network: nn.Module, image: Tensor) -> bool:
    """Say whether two modules respond to ``image`` alike, and have the same gradient there.

    A graph has not what a forward says besides its steps, such as ``torch.no_grad()``. Of a network that has no
    gradient, since a step in place changes what its gradient needs, only the responses are compared.
    """
    with torch.no_grad():
        if not _same_response(graph(image.clone()), network(image.clone())):
            return False
    try:
        expected = _gradient(network, image)
    except RuntimeError:
        return True
    return _same_response(_gradient(graph, image), expected)


def _gradient(module: nn.Module, image: Tensor) -> Tensor:
    """Return the gradient, by ``image``, of the response weighted at random."""
    with torch.enable_grad():
        leaf = image.clone().requires_grad_()
        response = module(leaf.clone())
        if not response.requires_grad:
            return torch.zeros_like(image)
        weights = torch.rand(response.shape, generator=torch.Generator().manual_seed(1)).to(response)
        (gradient,) = torch.autograd.grad(response, leaf, weights, allow_unused=True)
    return torch.zeros_like(image) if gradient is None else gradient


def _random_image(network: Network) -> Tensor:
    like = first_real(network.module)
    pixels = torch.rand(1, *network.input_shape, generator=torch.Generator().manual_seed(0))
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (network.mean, network.std))
    return ((pixels - mean) / std).to(like)


def _same_response(first: Tensor, second: Tensor, scale: Tensor | None = None) -> bool:
    """Say whether two responses are the same up to round-off of values as large as those of ``scale``."""
    if first.shape != second.shape:
        return False
    first, second = (values.to(torch.promote_types(first.dtype, second.dtype)) for values in (first, second))
    values = (second if scale is None else scale).abs()
    # A node whose weights are no numbers is refused where it is sampled, by its name.
    largest = float(values[values.isfinite()].max()) if bool(values.isfinite().any()) else 0.0
    bound = 1e-9 if second.dtype == torch.float64 else 1e-3
    return torch.allclose(first, second, rtol=0, atol=bound * largest, equal_nan=True)


class _StopAt(nn.Module):
    """A network that is run as it is up to one layer: what a cut is checked against, and for networks without a graph.

    Args:
        network: private to this module.
        layer: dotted name of the layer.
        before: return what the layer is given instead of what it puts out.
    """

    def __init__(self, network: nn.Module, layer: str, *, before: bool = False) -> None:
        super().__init__()
        self.network = network
        self.layer = layer
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's response; the hook that ends the forward is gone afterwards."""
        module = self.network.get_submodule(self.layer)
        if self.before:
            handle = module.register_forward_pre_hook(lambda _, inputs: _stop(inputs[0]))
        else:
            handle = module.register_forward_hook(lambda _, inputs, output: _stop(output))
        try:
            self.network(x)
        except _ReachedError as reached:
            return reached.response
        finally:
            handle.remove()
        raise NetworkError("the layer did not run", where=f"layer {self.layer}", right="name a layer that runs")


class _ReachedError(Exception):
    def __init__(self, response: Tensor) -> None:
        super().__init__()
        self.response = response


def _stop(response: Tensor) -> None:
    raise _ReachedError(response)
