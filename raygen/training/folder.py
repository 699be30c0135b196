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
from functools import cached_property
from typing import Any

import torch

from raygen.documents import LARGEST, parse_json
from raygen.errors import StoreError
from raygen.networks import KEY, encode_checkpoint
from raygen.storage import Location, below, check_pickled, check_sealed
from raygen.store import Lock, Owner, Pace, claim, read_owner, read_request
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

_SEAL = b"raygen.mark "
"""Stands behind a state, before the mark (hex) of its training and its bytes."""

_OLD_SEAL = b"raygen.seal "
"""The same before the SHA-256 (hex) of its bytes alone, as older raygens wrote it."""

_SEAL_SIZE = len(_SEAL) + 64

_TRAINING = "training"
"""Of a trained network's description: the key of its training."""

_LINE_SEAL = "seal"
"""Of a line of the metrics: the mark of its training and of what stands in the line."""


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

    @cached_property
    def owner(self) -> Owner:
        """What the folder's files belong to, as ``pretrain.json`` said it when it was first asked for.

        Raises:
            StoreError: as ``request`` does.
        """
        return read_owner(self.location, _REQUEST)

    @property
    def network(self) -> str:
        """Path or URI of the trained network; the file exists once training is finished."""
        return below(self.location.text, NETWORK)

    @property
    def finished(self) -> bool:
        """Whether the trained network is there."""
        return self.location.exists(NETWORK)

    def check_network(self) -> None:
        """Check that the trained network, which is there, is that of this training, as far as its file says it.

        Raises:
            StoreError: if it is that of another training, or cannot be read.
        """
        training = (_description_of(self.location) or {}).get(_TRAINING, None if self.owner.marks_all else "")
        if training not in ("", self.owner.key):
            raise StoreError(f"{NETWORK} is damaged, or that of another training", where=self.location.title,
                             right="remove that file and run the same command again")  # fmt: skip

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
        self.location.write(f"{STATES}/{_state_name(state['epoch'])}", _sealed(sink.getvalue(), self.owner))
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
        lines = ({**report, _LINE_SEAL: self.owner.mark(report)} for report in history)
        self.location.write(METRICS, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def history(self) -> tuple[EpochReport, ...]:
        """Return the reports of the epochs that are done, up to the first that cannot be read."""
        reports: list[EpochReport] = []
        if self.location.exists(METRICS):
            for line in self.location.read(METRICS).splitlines():
                try:
                    report = parse_json(line)
                    seal = report.pop(_LINE_SEAL, "" if self.owner.marks_all else None)
                    if seal not in (None, self.owner.mark(report)):
                        break
                    reports.append(EpochReport.of(report))
                except (ValueError, TypeError, KeyError, AttributeError):
                    break  # the states hold the reports too, and the next one writes them all again
        return tuple(reports)

    def _state(self, name: str) -> State | None:
        """Return a state, None if it is torn."""
        # Outside of what is caught: storage that fails for a moment must not send the run back to its beginning.
        read = self.location.read(f"{STATES}/{name}")
        if not _is_unbroken(read, self.owner):
            return None
        data = io.BytesIO(read)
        try:
            check_pickled(data)
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
        self.location.write(NETWORK, encode_checkpoint(module, {**description, _TRAINING: self.owner.key}))


def _sealed(state: bytes, owner: Owner) -> bytes:
    """Return a state's file with its seal behind it, which readers of such files pass over."""
    return state + _SEAL + owner.mark(hashlib.sha256(state).hexdigest()).encode()


def _is_unbroken(data: bytes, owner: Owner) -> bool:
    """Whether a state's file is what was sealed in this training; one from before there was a seal passes."""
    state, mark, seal = data[:-_SEAL_SIZE], data[-_SEAL_SIZE:-64], data[-64:]
    if mark == _SEAL or owner.marks_all:
        return seal == owner.mark(hashlib.sha256(state).hexdigest()).encode()
    return mark != _OLD_SEAL or seal == hashlib.sha256(state).hexdigest().encode()


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
    try:
        return Evaluation(**(_description_of(folder.location) or {})["test"])
    except (KeyError, TypeError):
        return None


def _description_of(location: Location) -> dict[str, Any] | None:
    """Return what the trained network's file says of it; None where it says nothing, or is damaged."""
    with location.open(NETWORK) as stream:
        size = stream.read(8)
        head = stream.read(min(int.from_bytes(size, "little"), LARGEST))
    try:
        check_sealed(io.BytesIO(size + head), whole=False)
        description = parse_json(parse_json(head)["__metadata__"][KEY])
    except (ValueError, KeyError, TypeError):
        return None
    return description if isinstance(description, dict) else None
