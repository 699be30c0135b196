"""What is found out about a network before any of its layers is listed or cut."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from raygen.networks.graph.receptive import Field, receptive_fields
from raygen.networks.graph.shapes import Shape, graph_shapes
from raygen.networks.graph.tracing import Traced, is_relu, trace
from raygen.networks.network import Network


@dataclass(frozen=True)
class Anatomy:
    """A traced network with what is known of its steps.

    Attributes:
        traced: the graph.
        shapes: of every value that is a tensor, for one input.
        fields: of every value with a grid; None where that is not defined.
    """

    traced: Traced
    shapes: dict[fx.Node, Shape]
    fields: dict[fx.Node, Field | None]

    def rectified(self, layer: str) -> bool:
        """Say whether the response of ``layer`` ends with a ReLU."""
        return is_relu(self.traced.module, self.traced.ends[layer])

    def end(self, layer: str, *, after: bool = False) -> fx.Node:
        """Return the value that the nodes of ``layer`` are scored by: its response, or what its ReLU is given.

        Args:
            layer: one of the traced ends.
            after: take the ReLU's output instead.
        """
        end = self.traced.ends[layer]
        return end.all_input_nodes[0] if self.rectified(layer) and not after else end


def examine(network: Network) -> Anatomy | None:
    """Trace ``network`` and measure its steps; None where it cannot be traced."""
    traced = trace(network.module)
    if traced is None:
        return None
    shapes = graph_shapes(traced.module, network.input_shape)
    return Anatomy(traced, shapes, receptive_fields(traced, shapes))
