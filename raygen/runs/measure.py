"""How fast a unit's work goes here, found with some gradients of it: the same batch, crop, precision and threads."""

from __future__ import annotations

import ctypes
import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from raygen.hmc import Parameters, Trace, diagnose
from raygen.networks import Network
from raygen.nodes import Node
from raygen.sampling import Batch, SamplingSettings, Source, Targets, encode_images
from raygen.store import Unit
from raygen.tilting import WhitenedScore

_GRADIENT = 0.1
"""Seconds of one gradient up to which a batch is made larger, until it is the unit's own."""

_PILOT = 1.0
"""Seconds that chains may take to show how long their trajectories become."""

_FEWEST = 16
"""Trajectories under which a warm-up shows nothing."""

_LOOKED = 4
"""Nodes of a unit that are looked at for one that can be sampled."""

_ROW = 60e-6
"""Seconds that one sample's row takes, of one core."""


@dataclass(frozen=True)
class Speed:
    """What a unit's work costs, in seconds.

    Attributes:
        rows: chains that shared a pass where it was measured.
        per_trajectory, per_gradient: of one chain in a pass of so many.
        per_single: gradient of one image in a small batch.
        per_image: to make one draw of one chain.
        per_look: to see how far one node's chains agree.
        beginning: to cut the network and make the reference, once.
        warm_steps, steps: gradients of a trajectory in warm-up and after it, on the average.
        memory: bytes of the process, or on CUDA of the device, at the peak of a unit; None where it cannot be told.
    """

    rows: int
    per_trajectory: float
    per_gradient: float
    per_single: float
    per_image: float
    per_look: float
    beginning: float
    warm_steps: float
    steps: float
    memory: float | None


class Meter:
    """Measures units of one network.

    Args:
        network: whose nodes.
        settings: the run's.
        images: what the reference is fitted to, or a saved reference; None for noise.
        device: where the chains live.
    """

    def __init__(self, network: Network, settings: SamplingSettings, images: Source, device: torch.device) -> None:
        self._network = network
        self._targets = Targets(network, settings, images, device)
        self._device = device

    def measure(self, unit: Unit, settings: SamplingSettings) -> Speed:
        """Measure a unit, whose layer has these settings.

        Raises:
            ScoreError: if its score is not finite where its chains start.
        """
        start = time.perf_counter()
        nodes = list(unit.parsed)
        cut = self._targets.cut(nodes[0])
        reference = self._targets.reference(cut.input_shape)
        beginning = time.perf_counter() - start
        nodes = self._lively(nodes)
        whole = self._batch(nodes, unit.chains, settings).capacity * unit.chains
        chosen, each, single = self._largest(nodes[: whole // unit.chains], unit.chains)
        density = self._density(chosen, each)
        rows = len(chosen) * each
        memory = _Memory(self._device)
        gradient_peak = memory.peak(lambda: self._gradient(density, rows))
        kernel = settings.make_kernel()
        one = self._trajectory(density, chosen, each, settings, 1)
        several = max(2, min(kernel.steps, 4))
        many = self._trajectory(density, chosen, each, settings, several)
        gradient = max((many - one) / (several - 1), 1e-9)
        warm_steps, steps = self._steps(chosen[0], unit.chains, settings, many / several / rows)
        image = self._image(density, rows)
        return Speed(
            rows=rows,
            per_trajectory=max(one - gradient, 0.0) / rows,
            per_gradient=gradient / rows,
            per_single=single,
            per_image=image + _ROW,
            per_look=self._look(settings, unit.chains, reference.shape),
            beginning=beginning,
            warm_steps=warm_steps,
            steps=steps,
            memory=None if gradient_peak is None else memory.base + gradient_peak * whole / rows,
        )

    def _lively(self, nodes: list[Node]) -> list[Node]:
        """Return the nodes with one in front that is neither constant nor dead, if there is one among the first."""
        for index, node in enumerate(nodes[:_LOOKED]):
            if not self._targets.find_dead([node]):
                return [node, *nodes[:index], *nodes[index + 1 :]]
        return nodes

    def _density(self, nodes: Sequence[Node], each: int) -> WhitenedScore:
        return self._targets.density(self._targets.scores(nodes, each))

    def _gradient(self, density: WhitenedScore, rows: int) -> None:
        position = torch.randn(rows, *density.reference.shape, device=self._device)
        density.gradient(position)
        _wait(self._device)

    def _largest(self, nodes: Sequence[Node], chains: int) -> tuple[Sequence[Node], int, float]:
        """Return nodes, and chains of each, as many of a unit's as can be measured in short; and the time of one image.

        The time of a batch is that of its parts from there on.
        """
        count, each = 1, min(chains, 8)
        single = math.inf
        while True:
            density, rows = self._density(nodes[:count], each), count * each
            self._gradient(density, rows)  # the first one prepares
            taken = _shortest(lambda density=density, rows=rows: self._gradient(density, rows))  # type: ignore[misc]
            single = min(single, taken / rows)
            if (count == len(nodes) and each == chains) or taken > _GRADIENT / 2:
                return nodes[:count], each, single
            count, each = (count, min(2 * each, chains)) if each < chains else (min(2 * count, len(nodes)), each)

    def _trajectory(
        self, density: WhitenedScore, nodes: Sequence[Node], each: int, settings: SamplingSettings, steps: int
    ) -> float:
        """Return the seconds of a trajectory of so many steps, its random numbers included."""
        kernel, shape = settings.make_kernel(), density.reference.shape
        streams = self._targets.streams(nodes, each)
        state = kernel.init(density, streams.start(shape))
        rows = len(state.score)
        size = settings.step_size or 0.1
        parameters = Parameters(torch.full((rows,), size, device=self._device), torch.zeros(rows, device=self._device),
                                torch.full((rows,), steps))  # fmt: skip

        def move() -> None:
            kernel.step(state, parameters, density, streams.noise(0, shape))
            _wait(self._device)

        return _shortest(move)

    def _steps(self, node: Node, chains: int, settings: SamplingSettings, gradient: float) -> tuple[float, float]:
        """Return the gradients of a trajectory, in warm-up and after it; the most where they cannot be found in short.

        A short warm-up of a few chains finds the step size, which gives the steps.
        """
        most = settings.make_kernel().steps
        if settings.trajectory == "steps" or most == 1 or settings.warm_up < _FEWEST:
            return most, most
        for few in (8, 4, 2):
            each = min(few, chains)
            made = min(settings.warm_up, int(_PILOT / (gradient * each * most)))
            if made >= _FEWEST:
                return self._pilot(node, each, settings.model_copy(update={"warm_up": made, "superchains": None}))
        return most, most

    def _pilot(self, node: Node, each: int, settings: SamplingSettings) -> tuple[float, float]:
        batch = self._batch([node], each, settings)
        state, warm_up = batch.begin(), settings.warm_up
        for _ in range(warm_up):
            state, _ = batch.step(state)
        (cohort,) = state.cohorts
        found = cohort.parameters(settings).steps
        steps = settings.kernel_steps if found is None else float(found.double().mean())
        return float(cohort.spent.double().mean()) / warm_up, steps

    def _batch(self, nodes: Sequence[Node], each: int, settings: SamplingSettings) -> Batch:
        return Batch(nodes, self._density(nodes, each), self._targets.streams(nodes, each), settings)

    def _image(self, density: WhitenedScore, rows: int) -> float:
        few = min(rows, 8)
        position = torch.randn(rows, *density.reference.shape, device=self._device)

        def make() -> None:
            with torch.no_grad():
                encode_images(self._network.pixels(density.reference.image(position))[:few])

        return _shortest(make) / few

    def _look(self, settings: SamplingSettings, chains: int, shape: tuple[int, ...]) -> float:
        length = max(4, min(settings.iterations, 400))
        record = torch.randn(length, chains)
        trace = Trace(record, record.double(), torch.randn(length, chains, 4), record.sigmoid(), record > math.inf,
                      record.double())  # fmt: skip
        return _shortest(lambda: diagnose(trace, chains, settings.superchains))


def _shortest(work: Callable[[], object]) -> float:
    """Return the shorter time of two: what else runs here only makes it longer."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Memory:
    """Peaks of memory above what the process has anyway; on CUDA, of the device's.

    Attributes:
        base: bytes that it has anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            self.base = float(torch.cuda.memory_allocated(device))
            return
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # freed memory that is kept would hide a peak below it
        self.base = float(_resident("VmRSS") or 0)

    def peak(self, work: Callable[[], None]) -> float | None:
        """Return the bytes above the base at the peak of ``work``; None where the system does not tell."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            work()
            return torch.cuda.max_memory_allocated(self._device) - self.base
        try:
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak back (proc(5))
        except OSError:
            return None
        work()
        highest = _resident("VmHWM")
        return None if highest is None else max(0.0, highest - self.base)


def _resident(name: str) -> int | None:
    """Return bytes."""
    status = Path("/proc/self/status")
    found = re.search(rf"{name}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else None
