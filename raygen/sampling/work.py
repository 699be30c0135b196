"""A unit's way from nodes to rows: draws, then log Z. It may be left after any trajectory, and taken up again."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.ipc
import torch
from torch import Tensor

from raygen.hmc import Tensors, under, within
from raygen.nodes import Node
from raygen.sampling.batch import Batch, room
from raygen.sampling.cohort import Keep, Stopped
from raygen.sampling.log_z import LogZ, OnState, estimate_log_z
from raygen.sampling.progress import Reporter
from raygen.sampling.rows import add_log_z
from raygen.sampling.settings import SamplingSettings
from raygen.sampling.streams import node_streams
from raygen.sampling.targets import Targets
from raygen.store import SAMPLES
from raygen.tilting import WhitenedScore


class Work:
    """The sampling of nodes of one layer and ending.

    Args:
        targets: of the nodes' network.
        nodes: in the order of the unit.
        density: of all their chains, side by side.
        settings: of this unit: the profile's go before the run's.
        chains: of each node.
        device: where they live.
        keep: makes draws.
        to_rows: makes the rows of nodes that have stopped.
    """

    def __init__(
        self,
        targets: Targets,
        nodes: Sequence[Node],
        density: WhitenedScore,
        settings: SamplingSettings,
        chains: int,
        device: torch.device,
        *,
        keep: Keep,
        to_rows: Callable[[Stopped], pa.Table],
    ) -> None:
        self._targets = targets
        self._nodes = nodes
        self._density = density
        self._settings = settings
        self._chains = chains
        self._device = device
        self._to_rows = to_rows
        self._batch = Batch(nodes, density, node_streams(settings, nodes, chains, device), settings, keep)
        self._rows = SAMPLES.empty_table()
        self._log_z: list[LogZ] = []
        self._begun: Tensors = {}

    def run(self, report: Reporter, on_state: OnState | None) -> pa.Table:
        """Do what is missing, and return the rows, in any order.

        Raises:
            ScoreError: naming the node, if its score is not finite, or has no gradient, where its chains start.
        """
        while not self._batch.finished:
            acceptance = self._batch.step()
            stopped = [self._to_rows(part) for part in self._batch.stop()]
            self._rows = pa.concat_tables([self._rows, *stopped])
            report.chains(self._batch.fraction, acceptance)
            if on_state is not None:
                on_state(self._save)
        if not self._settings.log_z:
            return self._rows
        self._find_log_z(report, on_state)
        names = map(str, self._nodes)
        return add_log_z(self._rows, dict(zip(names, self._log_z, strict=True)))

    def restore(self, saved: Tensors) -> None:
        """Take up what was saved of the same nodes and settings.

        Raises:
            KeyError, TypeError, ValueError, StoreError: if something is missing, or does not fit.
        """
        self._batch.restore(within(saved, "batch"))
        self._rows = pa.ipc.open_stream(saved["rows"].numpy().tobytes()).read_all()
        found = saved["log_z"].tolist()
        self._log_z = [LogZ(value, error, ess, int(gradients)) for value, error, ess, gradients in found]
        self._begun = within(saved, "begun")

    def _save(self) -> dict[str, Tensor]:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, self._rows.schema) as writer:
            writer.write_table(self._rows)
        found = [(node.value, node.error, node.ess, float(node.gradients)) for node in self._log_z]
        return {
            "rows": torch.frombuffer(bytearray(sink.getvalue()), dtype=torch.uint8),
            "log_z": torch.tensor(found, dtype=torch.float64).view(-1, 4),
            **under("batch", self._batch.save()),
        }

    def _find_log_z(self, report: Reporter, on_state: OnState | None) -> None:
        """Estimate log Z of each node at its tilt, as many nodes at once as fit."""
        names, tilts = self._rows["node"].to_pylist(), self._rows["tilt"].to_pylist()
        tilt_of = dict(zip(names, tilts, strict=True))
        size = room(self._settings, len(self._nodes), self._chains)
        while len(self._log_z) < len(self._nodes):
            nodes = self._nodes[len(self._log_z) :][:size]
            tilt = torch.tensor([tilt_of[str(node)] for node in nodes], device=self._device)
            self._log_z += self._estimate(nodes, tilt, report, on_state)
            self._begun = {}

    def _estimate(self, nodes: Sequence[Node], tilt: Tensor, report: Reporter, on_state: OnState | None) -> list[LogZ]:
        done, whole = len(self._log_z), len(self._nodes)
        density = self._density
        if len(nodes) < whole:
            density = self._targets.density(self._targets.scores(nodes, self._chains))

        def on_rung(begun: Callable[[], dict[str, Tensor]]) -> None:
            if on_state is not None:
                on_state(lambda: {**self._save(), **under("begun", begun())})

        return estimate_log_z(
            self._settings.make_kernel(), density, node_streams(self._settings, nodes, self._chains, self._device),
            tilt, density.reference.shape, rungs=self._settings.log_z_rungs,
            on_fraction=lambda fraction: report.rest((done + fraction * len(nodes)) / whole),
            on_state=on_rung, saved=self._begun,
        )  # fmt: skip
