"""The calls to actors that a farm waits for, whose outcomes are collected together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import RayError

Kind = Literal["ready", "sample", "progress", "save"]


@dataclass(frozen=True, slots=True)
class Call:
    """A call to an actor; ``unit`` where it is to sample one."""

    actor: int
    kind: Kind
    unit: int = -1


class Calls:
    """References that are waited for."""

    def __init__(self) -> None:
        self._calls: dict[Any, Call] = {}
        self._of: dict[int, dict[Call, Any]] = {}

    def add(self, call: Call, reference: Any) -> None:
        """Wait for one more."""
        self._calls[reference] = call
        self._of.setdefault(call.actor, {})[call] = reference

    def waits_for(self, call: Call) -> bool:
        """Whether this call is waited for."""
        return call in self._of.get(call.actor, ())

    def cancel(self, call: Call) -> None:
        """Ask for a call not to be begun; it ends with an error, or with a value if it was too late."""
        if (reference := self._of.get(call.actor, {}).get(call)) is not None:
            ray.cancel(reference)

    def collect(self, timeout: float) -> list[tuple[Call, Any]]:
        """Wait until there is an outcome, and take all that there are: values first, then errors."""
        if not self._calls:
            time.sleep(timeout)
            return []
        references = list(self._calls)
        first, _ = ray.wait(references, num_returns=1, timeout=timeout, fetch_local=False)
        return self._take(references) if first else []

    def drop(self, actor: int) -> list[tuple[Call, Any]]:
        """Wait no more for an actor's calls; return those whose outcome is there."""
        outcomes = self._take(list(self._of.get(actor, {}).values()))
        for reference in self._of.pop(actor, {}).values():
            del self._calls[reference]
        return outcomes

    def _take(self, references: list[Any]) -> list[tuple[Call, Any]]:
        if not references:
            return []
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
        outcomes = [(self._forget(reference), outcome) for reference, outcome in zip(ready, _get(ready), strict=True)]
        return sorted(outcomes, key=lambda outcome: isinstance(outcome[1], RayError))

    def _forget(self, reference: Any) -> Call:
        call = self._calls.pop(reference)
        mine = self._of[call.actor]
        del mine[call]
        if not mine:
            del self._of[call.actor]
        return call


def _get(references: list[Any]) -> Iterator[Any]:
    try:
        yield from ray.get(references)
    except RayError:
        pass
    else:
        return
    for reference in references:
        try:
            value = ray.get(reference)
        except RayError as error:
            value = error
        yield value
