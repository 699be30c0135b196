"""A sampling actor: a thin shell around a unit's sampler."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ray
import torch

from raygen.errors import RaygenError, StoreError
from raygen.networks import Network
from raygen.process import keep_freed_memory
from raygen.runs import StateKeeper, UnitReport, sample_unit
from raygen.sampling import Profile, SamplingSettings, Source, UnitProgress, UnitSampler
from raygen.store import Run, Unit

Progress = tuple[int, UnitProgress]
"""Which unit, and how far it is."""


class FarmActor:
    """What a farm asks of an actor. Its constructor's arguments are the kind's."""

    _progress: Progress = (-1, UnitProgress(0.0, math.nan))

    def ready(self) -> str:
        """Return, once it can take work, which machine it is on."""
        machine: str = ray.get_runtime_context().get_node_id()
        return machine

    def sample(self, number: int, unit: Unit) -> UnitReport | str:
        """Sample and commit a unit; return an error's line where trying again cannot help."""
        raise NotImplementedError

    def progress(self) -> Progress:
        """Return how far the current unit is; answered while it runs."""
        return self._progress

    def save(self) -> str:
        """Save the current unit's last state, while it runs; return why that failed, or nothing."""
        return ""


class SamplingActor(FarmActor):
    """Samples one unit at a time, commits it, and returns a few numbers."""

    _keeper: StateKeeper | None = None

    def __init__(
        self,
        run: Run,
        network: Network,
        images: Source,
        settings: SamplingSettings,
        profile: Profile,
        threads: int,
        gpu: bool,
        save_every: float,
    ) -> None:
        keep_freed_memory()
        self._save_every = save_every
        self._run = run
        self._threads = threads
        self._sampler = UnitSampler(network, settings, images, torch.device("cuda" if gpu else "cpu"), profile)

    def sample(self, number: int, unit: Unit) -> UnitReport | str:
        """Sample and commit a unit; return an error's line where trying again cannot help."""
        torch.set_num_threads(self._threads)
        self._progress = number, UnitProgress(0.0, math.nan)

        def note(progress: UnitProgress) -> None:
            self._progress = number, progress

        self._keeper = StateKeeper(self._run, unit, self._save_every)
        try:
            return sample_unit(self._run, self._sampler, unit, note, keeper=self._keeper)
        except StoreError:
            raise  # storage may be back by the next try
        except RaygenError as error:
            return str(error)
        finally:
            self._keeper = None  # of a unit that has ended there is nothing to save

    def save(self) -> str:
        """Save the current unit's last state, while it runs; return why that failed, or nothing."""
        keeper = self._keeper
        return "" if keeper is None else keeper.save_last()


@dataclass(frozen=True)
class ActorKind:
    """What the actors of a farm are.

    Attributes:
        actor: their class.
        arguments: of its constructor; what ``ray.put`` returned is read once a machine.
        cpus, gpus: that each has for itself; of a GPU it may be a share.
    """

    actor: type[FarmActor]
    arguments: tuple[Any, ...] = ()
    cpus: float = 1
    gpus: float = 0

    def factory(self) -> Any:
        """Return what makes remote ones."""
        remote: Any = ray.remote  # its stubs do not know classes with options
        # Progress is answered, and a state saved, beside the unit that runs; only the scheduler restarts actors.
        return remote(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0, concurrency_groups={"progress": 1})(
            self.actor
        )


def sampling_kind(
    run: Run, network: Network, images: Source, settings: SamplingSettings, *,
    profile: Profile, threads: int, gpus: float, save_every: float,
) -> ActorKind:  # fmt: skip
    """Return actors that sample.

    Args:
        run: on storage that every machine reaches.
        network: goes to each machine once, and so do the images.
        images: what the reference is fitted to, or a saved reference.
        settings: what decides the samples.
        profile: by layer, settings that go before the others.
        threads: CPU threads of each.
        gpus: share of a GPU of each; 0 samples on the CPU.
        save_every: seconds between two states of an unfinished unit that are saved.
    """
    arguments = (run, ray.put(network), ray.put(images), settings, profile, threads, gpus > 0, save_every)
    return ActorKind(SamplingActor, arguments, cpus=threads, gpus=gpus)
