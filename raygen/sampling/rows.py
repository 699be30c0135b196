"""From draws to rows of the store."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from raygen.hmc import Diagnostics, Parameters, Trace
from raygen.sampling.log_z import LogZ
from raygen.store import SAMPLES

_TAIL = 0.005
"""Fraction of an image's values left out at either end of its grey scale, lest one pixel set the scale."""


@dataclass(frozen=True)
class Draw:
    """What is kept of all chains at one draw; tensors on the CPU, one row a chain.

    Attributes:
        images: PNG bytes.
        low, high: pixel values shown as 0 and 255, shape (N,).
        score, potential, top_channel, signal: shape (N,).
    """

    images: list[bytes]
    low: Tensor
    high: Tensor
    score: Tensor
    potential: Tensor
    top_channel: Tensor
    signal: Tensor

    def rows(self, chosen: Tensor) -> Draw:
        """Return what is kept of the chains whose numbers are ``chosen``, alone."""
        numbers = (self.low, self.high, self.score, self.potential, self.top_channel, self.signal)
        return Draw([self.images[row] for row in chosen.tolist()], *(column[chosen] for column in numbers))


Stop = Literal["converged", "budget"]
"""Why a node's chains ended, where there is a budget."""


@dataclass(frozen=True)
class NodeFacts:
    """What is the same for all samples of a node; its log Z is found later."""

    model: str
    node: str
    layer: str
    channel: int
    class_name: str | None
    converged: bool
    diagnostics: Diagnostics
    trajectories: int | None = None
    stopped: Stop | None = None
    dead: str | None = None


def encode_images(pixels: Tensor) -> tuple[list[bytes], Tensor, Tensor]:
    """Return PNGs of images (N, C, H, W), each on its own grey scale, and the pixel values shown as 0 and 255.

    One or three channels are shown as they are; of any other number, their mean.
    """
    pixels = pixels.detach().float().cpu()
    if pixels.shape[1] not in {1, 3}:
        pixels = pixels.mean(1, keepdim=True)
    ends = torch.quantile(pixels.flatten(1), torch.tensor([_TAIL, 1 - _TAIL]), dim=1)
    least = torch.finfo(torch.float32).eps * ends[0].abs().clamp(min=1)  # a constant image has no scale of its own
    low, high = ends[0], torch.maximum(ends[1], ends[0] + least)
    wide = (-1, 1, 1, 1)
    scaled = (pixels - low.view(wide)) / (high - low).view(wide)
    bytes_ = (scaled.clamp(0, 1) * 255).round().to(torch.uint8)
    return [_png(image) for image in bytes_], low, high


def make_rows(
    facts: Sequence[NodeFacts],
    draws: Sequence[Draw],
    trace: Trace,
    parameters: Parameters,
    *,
    gradients: Sequence[int],
    seed: int,
) -> pa.Table:
    """Return the samples of a unit, ordered by node, chain and draw.

    Args:
        facts: of each node.
        draws: all that were kept.
        trace: of the chains after warm-up.
        parameters: frozen ones.
        gradients: of each chain, warm-up included.
        seed: of the run.
    """
    of_chains = {
        "tilt": parameters.tilt.tolist(),
        "acceptance_rate": trace.acceptance.mean(0).tolist(),
        "step_size": parameters.step_size.tolist(),
        "gradients": gradients,
        "divergences": trace.diverged.sum(0).tolist(),
    }
    chains = len(draws[0].images) // len(facts)
    rows: list[dict[str, object]] = []
    for n, node in enumerate(facts):
        own = range(n * chains, (n + 1) * chains)
        of_node = {**_node_columns(node), "contrast": _contrast(draws, parameters, own), "seed": seed}
        for chain, row in enumerate(own):
            of_chain = {name: values[row] for name, values in of_chains.items()}
            rows += [
                {**of_node, "chain": chain, **of_chain, "draw": index, **_draw_columns(draw, row)}
                for index, draw in enumerate(draws)
            ]
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def _contrast(draws: Sequence[Draw], parameters: Parameters, own: range) -> float:
    """Return the squared tilt times the mean signal of a node's chains, whose rows are ``own``."""
    signals = torch.stack([draw.signal[own.start : own.stop] for draw in draws])
    return float(parameters.tilt[own.start]) ** 2 * float(signals.mean())


def _node_columns(node: NodeFacts) -> dict[str, object]:
    nested = node.diagnostics.r_hat_nested
    return {
        "model": node.model,
        "node": node.node,
        "layer": node.layer,
        "channel": node.channel,
        "class_name": node.class_name,
        "r_hat": node.diagnostics.r_hat,
        "ess_bulk": node.diagnostics.ess_bulk,
        "ess_tail": node.diagnostics.ess_tail,
        "e_bfmi": node.diagnostics.bfmi,
        "converged": node.converged,
        "r_hat_nested": None if math.isnan(nested) else nested,
        "trajectories": node.trajectories,
        "stop_reason": node.stopped,
        "dead": node.dead,
    }


def _draw_columns(draw: Draw, row: int) -> dict[str, object]:
    return {
        "image": {"bytes": draw.images[row], "path": None},
        "image_low": float(draw.low[row]),
        "image_high": float(draw.high[row]),
        "score": float(draw.score[row]),
        "potential": float(draw.potential[row]),
        "top_channel": int(draw.top_channel[row]),
    }


def add_log_z(rows: pa.Table, found: Mapping[str, LogZ]) -> pa.Table:
    """Return samples with the log Z of their nodes, given by name."""
    own = [found.get(name) for name in rows["node"].to_pylist()]
    columns = {"log_z": "value", "log_z_error": "error", "log_z_ess": "ess", "log_z_gradients": "gradients"}
    for name, attribute in columns.items():
        values = [None if node is None else getattr(node, attribute) for node in own]
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, SAMPLES.field(name), pa.array(values, SAMPLES.field(name).type))
    return rows


def _png(image: Tensor) -> bytes:
    array = image.permute(1, 2, 0).numpy()
    sink = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(sink, format="PNG")
    return sink.getvalue()
