"""Times at which something is due, each of which may be moved on."""

from __future__ import annotations

import heapq


class Alarms:
    """A time for each number. Setting, moving and taking one costs O(log n)."""

    def __init__(self) -> None:
        self._times: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []  # may hold times that were moved or dropped since

    def __len__(self) -> int:
        return len(self._times)

    def set(self, number: int, time: float) -> None:
        """Set or move the time of ``number``."""
        self._times[number] = time
        heapq.heappush(self._heap, (time, number))
        if len(self._heap) > 2 * len(self._times) + 64:
            # At most once in so many pushes.
            self._heap = [(time, number) for number, time in self._times.items()]
            heapq.heapify(self._heap)

    def drop(self, number: int) -> None:
        """Forget the time of ``number``, if it has one."""
        self._times.pop(number, None)

    def due(self, now: float) -> list[int]:
        """Take out the numbers whose time has come, the earliest first."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            time, number = heapq.heappop(self._heap)
            if self._times.get(number) == time:
                del self._times[number]
                found.append(number)
        return found
