"""How a training stands, and whether its files are whole: for whoever asks from another terminal, or afterwards."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from raygen.errors import StoreError
from raygen.storage import check_sealed
from raygen.store import Findings, Holder, is_held, read_holder
from raygen.training import METRICS, NETWORK, STATES, EpochReport, TrainingFolder, epoch_of


@dataclass(frozen=True)
class TrainingStatus:
    """How far a training is.

    Attributes:
        epochs: asked for.
        done: of them.
        finished: whether the trained network is there.
        alive: whether a driver holds the folder.
        holder: who holds it, or held it when it died; None after a training that ended by itself.
        last: report of the last epoch that is done.
    """

    epochs: int
    done: int
    finished: bool
    alive: bool
    holder: Holder | None
    last: EpochReport | None

    @property
    def seconds_left(self) -> float | None:
        """At the last epoch's pace; None where there is no driver, or no epoch is done."""
        return (self.epochs - self.done) * self.last.seconds if self.alive and self.last is not None else None

    @property
    def document(self) -> dict[str, Any]:
        """All of it as plain values."""
        holder = None if self.holder is None else {"host": self.holder.host, "pid": self.holder.pid}
        last = None if self.last is None else asdict(self.last)
        return {"epochs": self.epochs, "done": self.done, "finished": self.finished, "alive": self.alive,
                "holder": holder, "seconds_left": self.seconds_left, "last": last}  # fmt: skip


def training_status(folder: TrainingFolder) -> TrainingStatus:
    """Return how far a training is.

    Raises:
        StoreError: if storage does not answer.
    """
    history = folder.history()
    return TrainingStatus(
        epochs=int(folder.request["request"]["settings"]["epochs"]),
        done=folder.epochs,
        finished=folder.finished,
        alive=is_held(folder.location),
        holder=read_holder(folder.location),
        last=history[-1] if history else None,
    )


def verify_training(folder: TrainingFolder) -> Findings:
    """Read every state, the metrics and the trained network; nothing is changed.

    Raises:
        StoreError: if ``pretrain.json`` is missing or damaged, which nothing makes again, or storage does not answer.
    """
    _ = folder.request
    location, torn, whole = folder.location, dict[str, str](), 0
    top, states = location.names(), location.names(STATES)
    for name in (name for name in states if epoch_of(name)):
        try:
            folder.state_after(epoch_of(name))
            whole += 1
        except StoreError as error:
            torn[f"{STATES}/{name}"] = error.what
    if METRICS in top:
        lines = location.read(METRICS).splitlines()
        if len(folder.history()) < len(lines):
            torn[METRICS] = f"line {len(folder.history()) + 1} cannot be read"
        else:
            whole += 1
    if folder.finished:
        if fault := _network_fault(folder):
            torn[NETWORK] = fault
        else:
            whole += 1
    missing = () if folder.finished else (NETWORK,)
    partial = [name for name in top if name.endswith(".tmp")]
    partial += [f"{STATES}/{name}" for name in states if name.endswith(".tmp")]
    return Findings(whole=whole, torn=torn, missing=len(missing), first_missing=missing, partial=tuple(partial))


def _network_fault(folder: TrainingFolder) -> str:
    data = folder.location.read(NETWORK)
    try:
        check_sealed(io.BytesIO(data))
        load(data)
        folder.check_network()
    except StoreError as error:
        return error.what
    except (SafetensorError, ValueError) as error:
        return f"cannot be read ({error})"
    return ""


def mend_training(folder: TrainingFolder, findings: Findings) -> int:
    """Remove what is torn, and write torn metrics again from the newest state; return how many files were removed.

    The command that trains makes the rest again. Whoever calls this holds the folder's lock.

    Raises:
        StoreError: if the storage refuses.
    """
    newest = folder.newest_state() if METRICS in findings.torn else None
    for name in findings.to_remove:
        folder.location.remove(name)
    if newest is not None:
        folder.save_history(newest["history"])
    return len(findings.to_remove)
