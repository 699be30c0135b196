"""What happens to a farm, and what it does about it. Times are seconds of one clock, which never goes back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ActorReady:
    """An actor has come up and can take work."""

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
    """An actor gave a unit back with an error and lives on.

    Attributes:
        actor, unit: which.
        reason: one line.
        hopeless: the same would happen again, so it is not tried again.
        now: when.
    """

    actor: int
    unit: int
    reason: str
    hopeless: bool
    now: float


@dataclass(frozen=True, slots=True)
class UnitMoved:
    """The unit that an actor is at is so far; ``fraction`` runs from 0 to 1."""

    actor: int
    unit: int
    fraction: float
    now: float


@dataclass(frozen=True, slots=True)
class ActorLost:
    """An actor is gone, with all that it had in hand.

    Attributes:
        actor: which.
        reason: one line.
        blameless: its machine was taken away; the unit that it was at is not to blame.
        now: when.
        finished: units in its hand whose samples it had committed before.
    """

    actor: int
    reason: str
    blameless: bool
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
    """Start an actor under this number. Until it is ready, it stands for a demand on the cluster."""

    actor: int


@dataclass(frozen=True, slots=True)
class StopActor:
    """End this actor, whether it idles, hangs, still starts, or works on what another has finished."""

    actor: int


@dataclass(frozen=True, slots=True)
class Assign:
    """Hand a unit to an actor."""

    actor: int
    unit: int


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Take a unit out of an actor's hand that it has not begun. If it has, its result is welcome."""

    actor: int
    unit: int


Action = StartActor | StopActor | Assign | TakeBack
