"""Plain tables for a terminal or a log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raygen.networks import Layer

if TYPE_CHECKING:
    from raygen.cluster.tune import Evaluation


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns: the first to the left, the others to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )  # fmt: skip


def layer_table(layers: Sequence[Layer]) -> str:
    """Return the layers of a network."""
    header = ("layer", "kind", "channels", "map", "receptive field", "stride", "")
    return table(
        header,
        [
            (
                layer.name,
                layer.kind,
                str(layer.channels),
                "-" if layer.map_size is None else "{}x{}".format(*layer.map_size),
                "-" if layer.receptive_field is None else str(layer.receptive_field),
                "-" if layer.stride is None else str(layer.stride),
                "classes" if layer.is_classes else "",
            )
            for layer in layers
        ],
    )


def evaluation_table(evaluations: Sequence[Evaluation]) -> str:
    """Return the evaluations of a search, as they are sorted."""
    header = ("contrast", "step size", "ESS/1000 gradients", "own channel", "worth", "acceptance", "tilt")
    return table(
        header,
        [
            (
                f"{found.contrast:g}",
                f"{found.step_size:g}",
                f"{found.ess_rate:.2f}",
                f"{100 * found.share:.0f} %",
                f"{found.worth:.2f}",
                f"{found.acceptance:.2f}",
                f"{found.tilt:.3g}",
            )
            for found in evaluations
        ],
    )
