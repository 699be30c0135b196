"""The units of a run as numbers, with a byte of memory each: which wait, and in which order."""

from __future__ import annotations

from collections import deque

WAITING, IN_FLIGHT, DONE, SET_ASIDE = range(4)
"""A unit's state."""


class UnitQueue:
    """The state of every unit, and the order in which those that wait are taken.

    Args:
        states: of each unit, WAITING or DONE; changed in place from now on.
    """

    def __init__(self, states: bytearray) -> None:
        self._states = states
        self._fresh = 0  # no unit from here on was ever taken
        self._first: deque[int] = deque()
        self._last: deque[int] = deque()
        self._reasons: dict[int, str] = {}
        self._common_reason = ""
        self.waiting = states.count(WAITING)
        self.in_flight = 0
        self.done = 0
        self.set_aside = 0

    def __len__(self) -> int:
        return len(self._states)

    @property
    def left(self) -> int:
        """Units that are neither done nor set aside."""
        return self.waiting + self.in_flight

    def state(self, unit: int) -> int:
        """Return a unit's state."""
        return self._states[unit]

    def take(self) -> int:
        """Return the next unit, now in flight: those requeued first, then the plan's order, then those that failed."""
        unit = self._next()
        self._states[unit] = IN_FLIGHT
        self.waiting -= 1
        self.in_flight += 1
        return unit

    def requeue(self, unit: int, *, last: bool = False) -> None:
        """Let a unit in flight wait again, before all others or after them."""
        (self._last.append if last else self._first.appendleft)(unit)
        self._states[unit] = WAITING
        self.in_flight -= 1
        self.waiting += 1

    def finish(self, unit: int) -> bool:
        """Note that a unit is committed, wherever it was; return whether it was not known."""
        if self._states[unit] == DONE:
            return False
        self._uncount(unit)
        self._states[unit] = DONE
        self.done += 1
        return True

    def give_up(self, unit: int, reason: str) -> None:
        """Set a unit aside that waits or is in flight."""
        self._uncount(unit)
        self._states[unit] = SET_ASIDE
        self._reasons[unit] = reason
        self.set_aside += 1

    def give_up_all(self, reason: str) -> None:
        """Set all units aside that wait."""
        self._common_reason = reason
        while self.waiting:
            self._states[self._next()] = SET_ASIDE
            self.waiting -= 1
            self.set_aside += 1

    def reasons(self, most: int) -> dict[int, str]:
        """Return the first ``most`` units that are set aside, with the reasons."""
        found: dict[int, str] = {}
        unit = self._states.find(SET_ASIDE)
        while unit >= 0 and len(found) < most:
            found[unit] = self._reasons.get(unit, self._common_reason)
            unit = self._states.find(SET_ASIDE, unit + 1)
        return found

    def _next(self) -> int:
        # What was finished while it waited is still in these.
        while self._first:
            if self._states[unit := self._first.popleft()] == WAITING:
                return unit
        if (unit := self._states.find(WAITING, self._fresh)) >= 0:
            self._fresh = unit + 1
            return unit
        self._fresh = len(self._states)
        while self._states[unit := self._last.popleft()] != WAITING:
            pass
        return unit

    def _uncount(self, unit: int) -> None:
        state = self._states[unit]
        if state == WAITING:
            self.waiting -= 1
        elif state == IN_FLIGHT:
            self.in_flight -= 1
        else:
            self.set_aside -= 1
            self._reasons.pop(unit, None)
