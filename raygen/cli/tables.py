"""Plain tables for a terminal or a log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from raygen.cli.display import duration
from raygen.notation import write_name
from raygen.text import for_terminal

if TYPE_CHECKING:
    from raygen.cluster import Trial
    from raygen.networks import Layer
    from raygen.runs import LayerCost, Totals


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns: the first to the left, the others to the right."""
    lines = [[for_terminal(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )  # fmt: skip


def layer_table(layers: Sequence[Layer], class_names: Sequence[str] = ()) -> str:
    """Return the layers of a network, with the first of its class names where they belong."""
    header = ("layer", "kind", "channels", "map", "receptive field", "stride", "cost", "")
    reasons = {layer.uncropped.partition(": ")[2] for layer in layers} - {""}
    shown = table(
        header,
        [
            (
                write_name(layer.name),
                layer.kind,
                str(layer.channels),
                "-" if layer.map_size is None else "{}x{}".format(*layer.map_size),
                "-" if layer.receptive_field is None else str(layer.receptive_field),
                "-" if layer.stride is None else str(layer.stride),
                "-" if layer.cost is None else _percent(layer.cost),
                _remark(layer, class_names),
            )
            for layer in layers
        ],
    )
    told = [f"Its forward runs as it is, on whole images, since it cannot be traced: {reason}" for reason in reasons]
    return "\n".join([shown, *told])


def layer_line(layer: Layer, class_names: Sequence[str]) -> str:
    """Return a layer as a JSON object in one line; the one that holds the classes has all their names."""
    return json.dumps(asdict(layer) | {"class_names": list(class_names) if layer.is_classes else []})


def class_table(class_names: Sequence[str]) -> str:
    """Return the classes, a line each: name and channel."""
    return table(("class", "channel"), [(name, str(channel)) for channel, name in enumerate(class_names)])


def _remark(layer: Layer, class_names: Sequence[str]) -> str:
    if layer.is_classes:
        shown = ", ".join(class_names[:3])
        return f"classes: {shown}{', ...' if len(class_names) > 3 else ''}"
    if layer.rectified:
        return "before its ReLU"
    return f"whole image: {layer.uncropped.partition(': ')[0]}" if layer.uncropped else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def trial_table(trials: Sequence[Trial]) -> str:
    """Return the trials of a search, as they are sorted."""
    header = ("contrast", "step size", "ESS/1000 gradients", "own channel", "objective", "acceptance", "tilt")
    return table(
        header,
        [
            (
                f"{trial.contrast:g}",
                f"{trial.step_size:g}",
                f"{trial.ess_rate:.2f}",
                f"{100 * trial.share:.0f} %",
                f"{trial.objective:.2f}",
                f"{trial.acceptance:.2f}",
                f"{trial.tilt:.3g}",
            )
            for trial in trials
        ],
    )


def totals_table(layers: Mapping[str, Totals]) -> str:
    """Return what was made in each layer."""
    header = ("layer", "units", "nodes", "converged", "samples", "gradients", "acceptance")
    return table(
        header,
        [
            (
                name,
                f"{made.units:,}",
                f"{made.nodes:,}",
                f"{made.converged:,}",
                f"{made.samples:,}",
                f"{made.gradients:,}",
                "-" if made.acceptance is None else f"{made.acceptance:.2f}",
            )
            for name, made in layers.items()
        ],
    )


def plan_table(costs: Iterable[LayerCost]) -> str:
    """Return what each layer costs."""
    header = ("layer", "units", "nodes", "chains", "gradients", "at most", "memory", "actor time", "a unit")
    return table(
        header,
        [
            (
                cost.layer,
                f"{cost.units:,}",
                f"{cost.nodes:,}",
                f"{cost.chains:,}",
                f"{cost.gradients:,}",
                f"{cost.most_gradients:,}",
                f"{cost.memory / 1e6:,.0f} MB",
                duration(cost.seconds),
                duration(cost.unit_seconds),
            )
            for cost in costs
        ],
    )
