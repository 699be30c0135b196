"""A whole network whose forward ends at one layer: what a cut is checked against, and for networks without a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raygen.errors import NetworkError


class StopAt(nn.Module):
    """A network that is run as it is up to one layer.

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


def same_response(first: Tensor, second: Tensor, scale: Tensor | None = None) -> bool:
    """Say whether two responses are the same up to round-off of values as large as those of ``scale``."""
    if first.shape != second.shape:
        return False
    values = (second if scale is None else scale).abs()
    # A node whose weights are no numbers is refused where it is sampled, by its name.
    largest = float(values[values.isfinite()].max()) if bool(values.isfinite().any()) else 0.0
    bound = 1e-9 if second.dtype == torch.float64 else 1e-3
    return torch.allclose(first, second, rtol=0, atol=bound * largest, equal_nan=True)
