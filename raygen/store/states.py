"""The state of an unfinished unit: kept in a file of its own until the unit's samples are committed."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from raygen.errors import StoreError
from raygen.storage import Location
from raygen.store.request import read_request
from raygen.store.unit import Unit

Arrays = dict[str, NDArray[Any]]

_VERSION = 2
"""Of the file's content. A state of another version is ignored, and its unit begins again."""

_SEAL = "seal"


@dataclass(frozen=True)
class UnitState:
    """The file of an unfinished unit's state; if two processes write it, the last one's content stays.

    Attributes:
        location: of the run.
        request: name of the file that says what was asked.
        unit: whose state.
    """

    location: Location
    request: str
    unit: Unit

    @property
    def path(self) -> str:
        """The file, relative to the run's folder."""
        return self.unit.state_path

    def read(self) -> Arrays | None:
        """Return the state of this unit of this run; None if there is none, or it is torn or of something else."""
        try:
            data = self.location.read(self.path) if self.location.exists(self.path) else b""
            arrays = load(data) if data else {}
        except (StoreError, OSError, SafetensorError, ValueError):
            return None
        seal = arrays.pop(_SEAL, None)
        return arrays if seal is not None and seal.tobytes() == self._seal(arrays) else None

    def write(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the state whole.

        Raises:
            StoreError: if the storage refuses.
        """
        held = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        seal = np.frombuffer(self._seal(held), dtype=np.uint8)
        # A file torn by a loss of power does not match its seal.
        self.location.write(self.path, save({**held, _SEAL: seal}), lasting=False)

    def remove(self) -> None:
        """Remove it, if it is there and can be removed; an unneeded state does no harm."""
        with contextlib.suppress(OSError, StoreError):
            self.location.remove(self.path)

    @cached_property
    def _asked(self) -> str:
        """What the state must belong to."""
        document = read_request(self.location, self.request)
        unit = (self.unit.name, self.unit.layer, self.unit.nodes, self.unit.chains)
        return json.dumps((_VERSION, document["schema"], document["request"], unit), sort_keys=True)

    def _seal(self, arrays: Arrays) -> bytes:
        """Return a digest of what was asked and what was found: neither another run's state nor a torn one matches it.

        After a loss of power a file may have its full length but not its content.
        """
        digest = hashlib.blake2b(self._asked.encode(), digest_size=16)
        for name in sorted(arrays):
            array = arrays[name]
            digest.update(f"|{name} {array.dtype} {array.shape}|".encode())
            digest.update(array.tobytes())
        return digest.digest()
