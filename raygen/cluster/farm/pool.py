"""The actors of a farm as its scheduler sees them: who starts, who works, who idles, and when another may start."""

from __future__ import annotations

from dataclasses import dataclass, field

_AHEAD = 4
"""Actors that may wait for a machine beyond those that run, in a small farm."""

_LONGEST_PAUSE = 60.0
"""Seconds until another start is tried, at most."""


@dataclass(slots=True)
class Member:
    """An actor.

    Attributes:
        ready: it has come up.
        draining: its machine is about to go; it gets nothing new.
        hand: its units; it is at the first.
        since: when it began the unit that it is at.
        told: when that unit last moved.
        fraction: how far it was then.
    """

    ready: bool = False
    draining: bool = False
    hand: list[int] = field(default_factory=list)
    since: float = 0.0
    told: float = 0.0
    fraction: float = 0.0

    def begin(self, now: float) -> None:
        """Note that it begins the unit that is now the first in its hand."""
        self.since, self.told, self.fraction = now, now, 0.0

    def remaining(self, typical: float, now: float) -> float:
        """Return the seconds that the unit it is at is expected to take from now.

        By the rate so far, or as long as is typical; but what has not moved for a while is expected not to for as long.
        """
        whole = (self.told - self.since) / self.fraction if self.fraction > 0 else typical
        return max(self.since + whole - now, now - self.told)


class ActorPool:
    """All actors.

    Args:
        minimum: as many are asked for at once.
        maximum: never more, those on draining machines not counted.
    """

    def __init__(self, minimum: int, maximum: int) -> None:
        self._minimum, self._maximum = minimum, maximum
        self._born = 0
        self._may_start = 0.0
        self._pending: dict[int, None] = {}  # in the order of their start
        self.members: dict[int, Member] = {}
        self.idle: dict[int, float] = {}  # since when, the longest first
        self.up = 0  # those that may be given work
        self.stillborn = 0

    @property
    def pending(self) -> int:
        """How many have not come up yet: what is asked of the cluster."""
        return len(self._pending)

    def may_start(self, now: float) -> bool:
        """Whether one more may be started now.

        Beyond the minimum as many as half of those that run, so that a large maximum does not flood a small cluster,
        and yet a growing one is soon full.
        """
        ahead = max(self._minimum - self.up, _AHEAD, self.up // 2)
        return self.up + self.pending < self._maximum and self.pending < ahead and now >= self._may_start

    def start(self) -> int:
        """Return the number of a new one."""
        number, self._born = self._born, self._born + 1
        self.members[number] = Member()
        self._pending[number] = None
        return number

    def stop_pending(self) -> int:
        """Forget the one that was started last of those that have not come up; return its number."""
        number, _ = self._pending.popitem()
        del self.members[number]
        return number

    def come_up(self, number: int) -> Member:
        """Note that one can take work; starts are to be relied on again."""
        member = self.members[number]
        del self._pending[number]
        member.ready = True
        self.stillborn, self._may_start = 0, 0.0
        if not member.draining:
            self.up += 1
        return member

    def drain(self, number: int) -> Member:
        """Note that its machine is about to go."""
        member = self.members[number]
        if member.ready and not member.draining:
            self.up -= 1
        member.draining = True
        self.idle.pop(number, None)
        return member

    def leave(self, number: int) -> Member:
        """Forget one."""
        member = self.members.pop(number)
        self._pending.pop(number, None)
        self.idle.pop(number, None)
        if member.ready and not member.draining:
            self.up -= 1
        return member

    def fail_to_start(self, now: float) -> None:
        """Note that one died before it came up; the more do, the longer the pause until the next is tried."""
        self.stillborn += 1
        self._may_start = now + min(_LONGEST_PAUSE, 2.0 ** (self.stillborn - 1))
