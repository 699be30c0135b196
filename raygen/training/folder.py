"""A training run on storage: its request, its newest states, its metrics, and the trained network.

States are written here, whole, by the first worker, not through the cluster's own bookkeeping: that overwrites its one
snapshot file in place, and a torn one must never cost the run.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raygen.networks import save_checkpoint
from raygen.store import Location, claim
from raygen.training.loop import State
from raygen.training.reports import EpochReport

_REQUEST = "pretrain.json"
_METRICS = "metrics.jsonl"
_NETWORK = "network.safetensors"
_STATES = "states"
_KEPT = 2
"""States kept: the newest, and the one before it in case the newest is torn."""


@dataclass(frozen=True)
class TrainingFolder:
    """The folder of one training run."""

    location: Location

    @classmethod
    def claim(cls, place: str, request: Mapping[str, Any], *, about: Mapping[str, str]) -> TrainingFolder:
        """Take the folder at ``place`` for the training that ``request`` describes, or find that training there.

        Raises:
            StoreError: if another training, or a stranger's files, are there.
        """
        location = Location.of(place)
        claim(location, _REQUEST, request, about=about)
        return cls(location)

    @property
    def network(self) -> str:
        """Path or URI of the trained network; the file exists once training is finished."""
        return f"{self.location.text.rstrip('/')}/{_NETWORK}"

    @property
    def finished(self) -> bool:
        """Whether the trained network is there."""
        return self.location.exists(_NETWORK)

    def newest_state(self) -> State | None:
        """Return the newest state that can be loaded; a torn one is passed over."""
        for name in reversed(self.location.names(_STATES)):
            try:
                state = torch.load(io.BytesIO(self.location.read(f"{_STATES}/{name}")), weights_only=True)
            except Exception:  # a torn file may raise anything in the reader
                continue
            if isinstance(state, dict) and "epoch" in state:
                return state
        return None

    def save_state(self, state: State) -> None:
        """Write a state whole, its metrics beside it, and drop the states before the last two."""
        sink = io.BytesIO()
        torch.save(state, sink)
        self.location.write(f"{_STATES}/epoch-{state['epoch']:05d}.pt", sink.getvalue())
        lines = (json.dumps(report) for report in state["history"])
        self.location.write(_METRICS, ("\n".join(lines) + "\n").encode())
        for name in self.location.names(_STATES)[:-_KEPT]:
            self.location.remove(f"{_STATES}/{name}")

    def history(self) -> tuple[EpochReport, ...]:
        """Return the reports of the epochs that are done."""
        if not self.location.exists(_METRICS):
            return ()
        lines = self.location.read(_METRICS).decode().splitlines()
        return tuple(EpochReport(**json.loads(line)) for line in lines)

    def finish(self, module: torch.nn.Module, description: Mapping[str, Any]) -> None:
        """Write the trained network as a raygen checkpoint; its existence says that training is finished."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / _NETWORK
            save_checkpoint(path, module, description)
            self.location.write(_NETWORK, path.read_bytes())
