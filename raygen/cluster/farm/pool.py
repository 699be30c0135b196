"""The actors of a farm as its scheduler sees them: who starts, who works, who idles, and when another may start."""

from __future__ import annotations

from dataclasses import dataclass, field

_AHEAD = 4
"""Actors that may wait for a machine beyond those that run, in a small farm."""

_LONGEST_PAUSE = 60.0
"""Seconds until another start is tried, at most."""


@dataclass(frozen=True)
class PoolSize:
    """How many actors: ``minimum`` at once, and up to ``maximum`` as the cluster grows."""

    minimum: int
    maximum: int


@dataclass(slots=True)
class ActorSlot:
    """An actor.

    Attributes:
        ready: it can take work.
        draining: its machine is about to go; it gets no new unit.
        in_flight: its units; it works on the first.
        since: when it began its current unit.
        moved_at: when that unit last made progress.
        fraction: how far it was then.
    """

    ready: bool = False
    draining: bool = False
    in_flight: list[int] = field(default_factory=list)
    since: float = 0.0
    moved_at: float = 0.0
    fraction: float = 0.0

    def begin(self, now: float) -> None:
        """Note that it begins the unit that is now its first."""
        self.since, self.moved_at, self.fraction = now, now, 0.0

    def remaining(self, typical: float, now: float) -> float:
        """Return the seconds that its current unit is expected to take from now.

        By the rate so far, or as long as is typical. A unit that has not moved for a while is expected to need at least
        as long again.
        """
        whole = (self.moved_at - self.since) / self.fraction if self.fraction > 0 else typical
        return max(self.since + whole - now, now - self.moved_at)


class ActorPool:
    """All actors.

    Args:
        minimum: so many are asked for at once.
        maximum: never more, those on draining machines not counted.
    """

    def __init__(self, minimum: int, maximum: int) -> None:
        self._minimum, self._maximum = minimum, maximum
        self._born = 0
        self._may_start = 0.0
        self._pending: dict[int, None] = {}  # in the order of their start
        self.slots: dict[int, ActorSlot] = {}
        self.idle: dict[int, float] = {}  # since when, the longest first
        self.up = 0  # those that may be given work
        self.failed_starts = 0  # in a row

    @property
    def pending(self) -> int:
        """How many are not ready yet: what is asked of the cluster."""
        return len(self._pending)

    def may_start(self, now: float) -> bool:
        """Whether one more may be started now.

        Beyond the minimum, as many as half of those that run: a large maximum does not flood a small cluster, and a
        growing one is soon full.
        """
        ahead = max(self._minimum - self.up, _AHEAD, self.up // 2)
        return self.up + self.pending < self._maximum and self.pending < ahead and now >= self._may_start

    def start(self) -> int:
        """Return the number of a new one."""
        number, self._born = self._born, self._born + 1
        self.slots[number] = ActorSlot()
        self._pending[number] = None
        return number

    def stop_pending(self) -> int:
        """Forget the one that was started last of those that are not ready; return its number."""
        number, _ = self._pending.popitem()
        del self.slots[number]
        return number

    def mark_ready(self, number: int) -> ActorSlot:
        """Note that one can take work; starts succeed again."""
        slot = self.slots[number]
        del self._pending[number]
        slot.ready = True
        self.failed_starts, self._may_start = 0, 0.0
        if not slot.draining:
            self.up += 1
        return slot

    def drain(self, number: int) -> ActorSlot:
        """Note that its machine is about to go."""
        slot = self.slots[number]
        if slot.ready and not slot.draining:
            self.up -= 1
        slot.draining = True
        self.idle.pop(number, None)
        return slot

    def remove(self, number: int) -> ActorSlot:
        """Forget one."""
        slot = self.slots.pop(number)
        self._pending.pop(number, None)
        self.idle.pop(number, None)
        if slot.ready and not slot.draining:
            self.up -= 1
        return slot

    def note_failed_start(self, now: float) -> None:
        """Note that one died before it was ready; each doubles the pause until the next start."""
        self.failed_starts += 1
        self._may_start = now + min(_LONGEST_PAUSE, 2.0 ** (self.failed_starts - 1))
