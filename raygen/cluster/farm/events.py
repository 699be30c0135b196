"""What happens to a farm, and what it does about it. Times are seconds of one clock, which never goes back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ActorReady:
    """An actor has started and can take work."""

    actor: int
    now: float


@dataclass(frozen=True, slots=True)
class UnitDone:
    """A unit's samples are committed."""

    actor: int
    unit: int
    now: float


@dataclass(frozen=True, slots=True)
class UnitFailed:
    """An actor returned an error for a unit, and lives on.

    Attributes:
        actor, unit: which.
        reason: one line.
        permanent: it would happen again, so the unit is not tried again.
        now: when.
    """

    actor: int
    unit: int
    reason: str
    permanent: bool
    now: float


@dataclass(frozen=True, slots=True)
class UnitMoved:
    """How far an actor's current unit is; ``fraction`` runs from 0 to 1."""

    actor: int
    unit: int
    fraction: float
    now: float


@dataclass(frozen=True, slots=True)
class ActorLost:
    """An actor is gone, with all that it had in flight.

    Attributes:
        actor: which.
        reason: one line.
        preempted: its machine was taken away; its current unit counts no failure.
        now: when.
        finished: those of its units whose samples it had committed before.
    """

    actor: int
    reason: str
    preempted: bool
    now: float
    finished: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ActorDraining:
    """An actor's machine is about to be taken away."""

    actor: int
    now: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    now: float


Event = ActorReady | UnitDone | UnitFailed | UnitMoved | ActorLost | ActorDraining | Tick


@dataclass(frozen=True, slots=True)
class StartActor:
    """Start an actor under this number. Until it is ready, it is a demand on the cluster."""

    actor: int


@dataclass(frozen=True, slots=True)
class StopActor:
    """End this actor: it idles, hangs, still starts, or works on what another has finished."""

    actor: int


@dataclass(frozen=True, slots=True)
class Assign:
    """Give a unit to an actor."""

    actor: int
    unit: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Take a unit from an actor that has not begun it. If it has, its result still counts."""

    actor: int
    unit: int


Action = StartActor | StopActor | Assign | Cancel
