"""A training run on storage: its request, its newest states, its metrics, and the trained network.

States are written here, whole, by the first worker, not through the cluster's own bookkeeping: that overwrites its one
snapshot file in place, and a torn one must never cost the run. Nothing of the cluster's is kept in the folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from raygen.documents import parse_json
from raygen.errors import StoreError
from raygen.networks import KEY, encode_checkpoint
from raygen.storage import Location, below, check_sealed
from raygen.store import Lock, Pace, claim, read_request
from raygen.training.curves import show_history
from raygen.training.evaluation import Evaluation
from raygen.training.reports import EpochReport
from raygen.training.state import State

_REQUEST = "pretrain.json"
METRICS = "metrics.jsonl"
NETWORK = "network.safetensors"
STATES = "states"
_KEPT = 2
"""States kept: the newest, and the one before it in case the newest is torn."""

_SEAL = b"raygen.seal "
"""Stands behind a state, before its SHA-256 (hex)."""

_SEAL_SIZE = len(_SEAL) + 64


@dataclass(frozen=True)
class TrainingFolder:
    """The folder of one training run."""

    location: Location

    @classmethod
    def claim(cls, folder: str, request: Mapping[str, Any], *, about: Mapping[str, str]) -> TrainingFolder:
        """Take ``folder``, a path or URI, for the training that ``request`` describes, or find that training there.

        Raises:
            StoreError: if another training, or a stranger's files, are there.
        """
        location = Location.of(folder)
        claim(location, _REQUEST, request, about=about)
        return cls(location)

    @classmethod
    def open(cls, folder: str) -> TrainingFolder:
        """Return the training in ``folder``, a path or URI, to be read.

        Raises:
            StoreError: if there is none, or one of another version of the schema.
        """
        training = cls(Location.of(folder))
        read_request(training.location, _REQUEST)
        return training

    @staticmethod
    def lock(folder: str, pace: Pace | None = None) -> Lock:
        """Return the lock of the training that is, or will be, in ``folder``: whoever trains holds it."""
        return Lock(Location.of(folder), _REQUEST, pace=pace)

    @property
    def request(self) -> dict[str, Any]:
        """What was asked, and about it: ``schema``, ``request``, ``about``."""
        return read_request(self.location, _REQUEST)

    @property
    def network(self) -> str:
        """Path or URI of the trained network; the file exists once training is finished."""
        return below(self.location.text, NETWORK)

    @property
    def finished(self) -> bool:
        """Whether the trained network is there."""
        return self.location.exists(NETWORK)

    def check_seen(self) -> None:
        """Check that this machine sees the folder that was claimed.

        Raises:
            StoreError: if it does not: the folder is on another machine's disk.
        """
        if not self.location.exists(_REQUEST):
            raise StoreError("a worker on another machine does not see this folder", where=self.location.title,
                             right="give a URI, or a path that all machines share")  # fmt: skip

    @property
    def epochs(self) -> int:
        """How many epochs are done, by the name of the newest state; it may turn out torn."""
        return max((epoch_of(name) for name in self.location.names(STATES)), default=0)

    def newest_state(self) -> State | None:
        """Return the newest state that is whole; a torn one is passed over.

        Raises:
            StoreError: if the storage does not answer.
        """
        names = sorted(self.location.names(STATES), key=epoch_of, reverse=True)
        return next((state for name in names if (state := self._state(name)) is not None), None)

    def state_after(self, epoch: int) -> State:
        """Return the state after ``epoch`` epochs.

        Raises:
            StoreError: if it is missing or torn.
        """
        state = self._state(_state_name(epoch))
        if state is None:
            raise StoreError(f"the state after epoch {epoch} cannot be read", where=self.location.title,
                             right="run the same command again")  # fmt: skip
        return state

    def save_state(self, state: State) -> None:
        """Write a state whole, its metrics beside it, and drop all states but it and the one before.

        Raises:
            StoreError: if the storage refuses.
        """
        sink = io.BytesIO()
        torch.save(state, sink)
        self.location.write(f"{STATES}/{_state_name(state['epoch'])}", _sealed(sink.getvalue()))
        self.save_history(state["history"])
        names = sorted(self.location.names(STATES), key=epoch_of)
        # A later one was passed over, and is torn.
        kept = [name for name in names if 0 < epoch_of(name) <= state["epoch"]][-_KEPT:]
        for name in names:
            if name not in kept:
                self.location.remove(f"{STATES}/{name}")
        show_history(self.location, [EpochReport.of(report) for report in state["history"]])

    def save_history(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Write the reports of the epochs that are done, as a state holds them.

        Raises:
            StoreError: if the storage refuses.
        """
        self.location.write(METRICS, "".join(json.dumps(report) + "\n" for report in history).encode())

    def history(self) -> tuple[EpochReport, ...]:
        """Return the reports of the epochs that are done, up to the first that cannot be read."""
        reports: list[EpochReport] = []
        if self.location.exists(METRICS):
            for line in self.location.read(METRICS).splitlines():
                try:
                    reports.append(EpochReport.of(parse_json(line)))
                except (ValueError, TypeError, KeyError):
                    break  # the states hold the reports too, and the next one writes them all again
        return tuple(reports)

    def _state(self, name: str) -> State | None:
        """Return a state, None if it is torn."""
        # Outside of what is caught: storage that fails for a moment must not send the run back to its beginning.
        read = self.location.read(f"{STATES}/{name}")
        if not _is_unbroken(read):
            return None
        data = io.BytesIO(read)
        try:
            # PyTorch does not look at the checksums that it writes: a hole in a file would become weights of 0.
            if zipfile.ZipFile(data).testzip() is not None:
                return None
            data.seek(0)
            state = torch.load(data, weights_only=True)
        except Exception:  # a torn file may raise anything in the reader
            return None
        return state if isinstance(state, dict) and state.get("epoch") == epoch_of(name) else None

    def finish(self, module: torch.nn.Module, description: Mapping[str, Any]) -> None:
        """Write the trained network as a raygen checkpoint; its existence says that training is finished."""
        show_history(self.location, self.history(), finished=True)
        self.location.write(NETWORK, encode_checkpoint(module, description))


def _sealed(state: bytes) -> bytes:
    """Return a state's file with its seal behind it, which readers of such files pass over."""
    return state + _SEAL + hashlib.sha256(state).hexdigest().encode()


def _is_unbroken(data: bytes) -> bool:
    """Whether a state's file is what was sealed; one that was written before there was a seal passes."""
    state, mark, seal = data[:-_SEAL_SIZE], data[-_SEAL_SIZE:-64], data[-64:]
    return mark != _SEAL or seal == hashlib.sha256(state).hexdigest().encode()


def _state_name(epoch: int) -> str:
    return f"epoch-{epoch:05d}.pt"


def epoch_of(name: str) -> int:
    """Return the epoch in a state's name, 0 for any other file."""
    number = name.removeprefix("epoch-").removesuffix(".pt")
    return int(number) if number.isdecimal() else 0


def final_evaluation(folder: TrainingFolder) -> Evaluation | None:
    """Return the evaluation of the trained network on the test images, None where there is no such network yet.

    It is read from the head of the network's file, so that no weights come over the wire.

    Raises:
        StoreError: if the storage does not answer.
    """
    if not folder.finished:
        return None
    with folder.location.open(NETWORK) as stream:
        size = stream.read(8)
        head = stream.read(int.from_bytes(size, "little"))
    try:
        check_sealed(io.BytesIO(size + head), whole=False)
        return Evaluation(**parse_json(parse_json(head)["__metadata__"][KEY])["test"])
    except (ValueError, KeyError, TypeError):
        return None
