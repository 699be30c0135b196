"""From draws to rows of the store."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.ipc
import torch

from raygen.hmc import Diagnostics, Parameters, Trace
from raygen.sampling.draws import ChainMeans, Draw
from raygen.sampling.log_z import LogZ
from raygen.store import SAMPLES

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
    reference: str
    views: int
    trajectories: int | None = None
    stopped: Stop | None = None
    dead: str | None = None
    barrier: float | None = None
    mode_steps: int | None = None


def make_rows(
    facts: Sequence[NodeFacts],
    draws: Sequence[Draw],
    trace: Trace,
    parameters: Parameters,
    *,
    gradients: Sequence[int],
    seed: int,
    means: ChainMeans | None = None,
    ancestor: Sequence[int] | None = None,
) -> pa.Table:
    """Return the samples of a unit, ordered by node, chain and draw.

    Args:
        facts: of each node.
        draws: all that were kept.
        trace: of the chains after warm-up.
        parameters: frozen ones.
        gradients: of each chain, warm-up included.
        seed: of the run.
        means: of the chains, each to stand beside its last draw.
        ancestor: the chain of its node from whose start each chain comes.
    """
    of_chains = {
        "tilt": parameters.tilt.tolist(),
        "acceptance_rate": trace.acceptance.mean(0).tolist(),
        "step_size": parameters.step_size.tolist(),
        "gradients": gradients,
        "divergences": trace.diverged.sum(0).tolist(),
        "ancestor": [None] * len(gradients) if ancestor is None else ancestor,
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
            if means is not None:
                rows[-1] |= _mean_columns(means, row)
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def _contrast(draws: Sequence[Draw], parameters: Parameters, own: range) -> float:
    """Return the squared tilt times the mean signal of a node's chains, whose numbers are ``own``."""
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
        "barrier": node.barrier,
        "mode_steps": node.mode_steps,
        "reference": node.reference,
        "views": node.views,
    }


def _draw_columns(draw: Draw, row: int) -> dict[str, object]:
    return {
        "image": {"bytes": draw.images[row], "path": None},
        "image_low": float(draw.low[row]),
        "image_high": float(draw.high[row]),
        "score": float(draw.score[row]),
        "potential": float(draw.potential[row]),
        "top_channel": int(draw.top_channel[row]),
        "plain_score": None if draw.plain is None else float(draw.plain[row]),
    }


def _mean_columns(means: ChainMeans, row: int) -> dict[str, object]:
    return {
        "mean": {"bytes": means.images[row], "path": None},
        "mean_low": float(means.low[row]),
        "mean_high": float(means.high[row]),
        "mean_score": float(means.score[row]),
    }


def add_log_z(rows: pa.Table, found: Mapping[str, LogZ]) -> pa.Table:
    """Return samples with the log Z of their nodes, given by name."""
    own = [found.get(name) for name in rows["node"].to_pylist()]
    columns = {"log_z": "value", "log_z_error": "error", "log_z_ess": "ess", "log_z_gradients": "gradients"}
    for name, attribute in columns.items():
        values = [None if node is None else getattr(node, attribute) for node in own]
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, SAMPLES.field(name), pa.array(values, SAMPLES.field(name).type))
    return rows


def to_bytes(rows: pa.Table) -> bytes:
    """Return samples as one Arrow stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def read_rows(streams: Iterable[bytes]) -> pa.Table:
    """Return the samples of several streams, in their order.

    Raises:
        ValueError: if one of them is torn.
    """
    return pa.concat_tables([SAMPLES.empty_table(), *(pa.ipc.open_stream(stream).read_all() for stream in streams)])
