"""``raygen bench nodes``: what cutting and cropping the network gains, and what packing many nodes in a batch gains."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from raygen.bench.loops import STEPS, Work, find_device, gradient, usable_cores
from raygen.bench.results import Result, compare
from raygen.bench.settings import NodesBenchSettings
from raygen.errors import SettingsError
from raygen.networks import Cut, Network, NodeScores, cut_network, list_layers, load_network
from raygen.process import keep_freed_memory

_EARLY = 2
"""Convolutions from the first one on whose nodes are also packed."""


def bench_nodes(settings: NodesBenchSettings) -> Iterator[Result]:
    """Yield, for layers from early to late, the speed cut and cropped, and packed, all in float32.

    Against the whole network at full size; and packed against the same nodes one by one: of each layer that the
    settings name, or else of early ones.

    Raises:
        SettingsError: if the device is not there, or a weight file is given for several networks.
        NetworkError, WeightsError, NodeError: as ``load_network`` and ``cut_network`` do.
    """
    device = find_device(settings.device)
    torch.set_num_threads(settings.threads or usable_cores())
    keep_freed_memory()
    names = [name.strip() for name in settings.network.split(",")]
    if len(names) > 1 and settings.weights not in ("random", "DEFAULT"):
        right = 'name its network, or give "random"'
        raise SettingsError(f"weights {settings.weights} for {len(names)} networks", where="bench nodes", right=right)
    for name in names:
        network = load_network(settings.model_copy(update={"network": name}))
        network.module.to(device)
        convolutions = [layer.name for layer in list_layers(network) if layer.kind == "conv" and not layer.is_classes]
        early = settings.layers or tuple(convolutions[:_EARLY])
        for layer in settings.layers or _spread(convolutions):
            cut = cut_network(network, layer)
            yield _against_whole(network, cut, settings, device)
            if layer in early:
                yield from _packed(network, cut, settings, device)


class WholeScores:
    """Scores of nodes of one layer by the whole network: run to its end, with a hook that keeps the responses.

    What one would do without a cut, in contiguous float32. The hook is there during a call only.

    Args:
        module: the network; private.
        layer: dotted name.
        channels: (N,) int64, the channel of each row; scored at the centre of the map.
    """

    def __init__(self, module: nn.Module, layer: str, channels: Tensor) -> None:
        self.module = module
        self.layer = layer
        self.channels = channels

    def __call__(self, x: Tensor) -> Tensor:
        """Return the scores (N,) of ``x`` (N, C, H, W)."""
        kept: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], response: Tensor) -> None:
            # A copy, by indices: the next layer may be a ReLU in place.
            own = response[torch.arange(len(x), device=x.device), self.channels]
            kept.append(own if own.ndim == 1 else own[:, own.shape[1] // 2, own.shape[2] // 2])

        handle = self.module.get_submodule(self.layer).register_forward_hook(keep)
        try:
            self.module(x)
        finally:
            handle.remove()
        return kept[0]


def _spread(names: list[str]) -> tuple[str, ...]:
    """Return the first two, the middle and the last."""
    return tuple(dict.fromkeys([*names[:_EARLY], *names[len(names) // 2 :][:1], *names[-1:]]))


def _against_whole(network: Network, cut: Cut, settings: NodesBenchSettings, device: torch.device) -> Result:
    channels = torch.arange(settings.batch) % cut.channels
    scores = NodeScores(cut, channels).to(device)
    whole = WholeScores(network.module, cut.layer, channels.to(device))
    size = f"{cut.input_shape[1]}x{cut.input_shape[2]}"
    case = f"{network.name} {cut.layer}, batch {settings.batch}, cut to {size} px against the whole network"
    subject = _gradients([scores], cut.input_shape, device)
    baseline = _gradients([whole], network.input_shape, device)
    return compare("nodes", case, _lasting(subject, settings), _lasting(baseline, settings), rounds=settings.rounds)


def _packed(network: Network, cut: Cut, settings: NodesBenchSettings, device: torch.device) -> Iterator[Result]:
    count = min(settings.nodes, cut.channels)
    case = f"{network.name} {cut.layer}, {count} nodes of {settings.chains} chains"

    def loop(nodes: int) -> Work:
        """Return a loop over all nodes, so many in a batch; a trajectory of each batch before the next."""
        parts = torch.split(torch.arange(count).repeat_interleave(settings.chains), nodes * settings.chains)
        scores = [NodeScores(cut, part).to(device) for part in parts]
        return _lasting(_gradients(scores, cut.input_shape, device, steps=STEPS), settings)

    one_by_one = loop(1)
    together = max(1, settings.packed // settings.chains)
    for nodes in dict.fromkeys((min(together, count), count)):
        what = f"{case}, {nodes * settings.chains} chains a batch against one node after the other"
        yield compare("nodes", what, loop(nodes), one_by_one, rounds=settings.rounds)


def _gradients(
    parts: Sequence[NodeScores | WholeScores], shape: tuple[int, int, int], device: torch.device, steps: int = 1
) -> Work:
    """Return the work of ``steps`` gradients of each part in turn, on white noise."""
    generator = torch.Generator().manual_seed(0)
    inputs = [(10 * torch.randn((len(part.channels), *shape), generator=generator)).to(device) for part in parts]

    def run() -> float:
        for part, x in zip(parts, inputs, strict=True):
            for _ in range(steps):
                gradient(part, x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return float(steps * sum(map(len, inputs)))

    return run


def _lasting(work: Work, settings: NodesBenchSettings) -> Work:
    """Return ``work`` repeated so often that it lasts about as long as a measurement should, at least once."""
    work()
    start = time.perf_counter()
    work()
    count = max(1, int(settings.seconds / (time.perf_counter() - start)))
    return lambda: sum(work() for _ in range(count))
