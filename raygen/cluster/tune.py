"""A search over tilt and step size for the nodes of a layer, on Ray Tune.

Every trial is kept on storage under the hash of its settings, and never made twice: Tune's own restore loses the newest
trials.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc
import ray
import torch
import yaml
from ray import tune

from raygen.cluster.machines import capacity
from raygen.documents import LARGEST, parse_json
from raygen.errors import StoreError, UnfinishedError
from raygen.networks import Network
from raygen.process import keep_freed_memory
from raygen.sampling import SamplingSettings, Source, UnitSampler
from raygen.storage import Location, below
from raygen.store import Unit, claim

_PROFILE = "profile.yaml"


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        out: folder or URI of the search.
        network: whose layer.
        images: what the reference is fitted to, or a saved reference.
        settings: of every trial, but for contrast and step size.
        layer: of the nodes.
        nodes: that settings are tried on, as the command line takes them.
        contrasts, step_sizes: the values to try, each with each.
    """

    out: str
    network: Network
    images: Source
    settings: SamplingSettings
    layer: str
    nodes: tuple[str, ...]
    contrasts: tuple[float, ...]
    step_sizes: tuple[float, ...]


@dataclass(frozen=True)
class Trial:
    """How well one pair of settings samples the nodes.

    Attributes:
        contrast, step_size: the settings.
        ess_rate: effective sample size of the score per 1,000 gradients, mean over the nodes.
        share: of the samples whose strongest channel in the layer is their node.
        acceptance: mean acceptance rate.
        tilt: mean over the nodes.
    """

    contrast: float
    step_size: float
    ess_rate: float
    share: float
    acceptance: float
    tilt: float

    @property
    def objective(self) -> float:
        """Effective number of right samples per 1,000 gradients: what the search maximises."""
        return self.ess_rate * self.share


@dataclass(frozen=True)
class TuningReport:
    """All trials, the best first, and where the profile is."""

    trials: tuple[Trial, ...]
    profile: str


def search(
    what: Search, *, actors: int | None, threads: int, gpus: float, on_progress: Callable[[int, int], None]
) -> TuningReport:
    """Make a trial of every pair of settings that has none yet; write the profile of the best.

    Args:
        what: the search.
        actors: trials at once; None for as many as fit.
        threads: CPU threads of a trial.
        gpus: share of a GPU of a trial.
        on_progress: called with the number of trials made, and of all.

    Raises:
        UnfinishedError: if trials failed; the others are kept.
        StoreError: if another search is in the folder.
    """
    location = Location.of(what.out)
    request = {
        "network": what.network.name,
        "weights_hash": what.network.weights_hash,
        "layer": what.layer,
        "nodes": what.nodes,
        "settings": what.settings.model_dump(exclude={"contrast", "tilt", "step_size"}),
    }
    claim(location, "tune.json", request, about={})
    pairs = [(contrast, step) for contrast in what.contrasts for step in what.step_sizes]
    names = {pair: _name(pair) for pair in pairs}
    missing = [pair for pair in pairs if not location.exists(names[pair])]
    if missing:
        at_once = min(actors or len(missing), capacity(cpus=threads, gpus=gpus))
        before = len(pairs) - len(missing)
        _run_trials(what, location, missing, at_once, threads=threads, gpus=gpus,
                    on_done=lambda count: on_progress(before + count, len(pairs)))  # fmt: skip
    made = [pair for pair in pairs if location.exists(names[pair])]
    found = tuple(sorted((_read_trial(location, names[pair]) for pair in made), key=lambda trial: -trial.objective))
    if len(found) < len(pairs):
        raise UnfinishedError(
            f"{location.title}: {len(pairs) - len(found)} of {len(pairs)} trials failed; run it again"
        )
    location.write(_PROFILE, _profile(what, found[0]))
    return TuningReport(found, below(what.out, _PROFILE))


def _read_trial(location: Location, name: str) -> Trial:
    try:
        trial = Trial(**parse_json(location.read(name, most=LARGEST)))
        float(trial.objective)
    except (ValueError, TypeError) as error:
        raise StoreError(f"{name} is damaged ({error})", where=location.title,
                         right="remove it, and run the same command again") from None  # fmt: skip
    return trial


def _run_trials(
    what: Search,
    location: Location,
    pairs: list[tuple[float, float]],
    at_once: int,
    *,
    threads: int,
    gpus: float,
    on_done: Callable[[int], None],
) -> None:
    shared = ray.put(what)

    def make(config: Mapping[str, Any]) -> None:
        contrast, step_size = config["pair"]
        torch.set_num_threads(threads)
        keep_freed_memory()
        made = make_trial(ray.get(shared), contrast, step_size, torch.device("cuda" if gpus else "cpu"))
        location.write(_name((contrast, step_size)), json.dumps(asdict(made)).encode())
        tune.report({**asdict(made), "objective": made.objective})

    tuner = tune.Tuner(
        tune.with_resources(make, {"cpu": threads, "gpu": gpus}),
        param_space={"pair": tune.grid_search(pairs)},
        tune_config=tune.TuneConfig(max_concurrent_trials=max(at_once, 1)),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=location.text if "://" in location.text else location.root,
            verbose=0,
            callbacks=[_Counter(on_done)],
        ),
    )
    tuner.fit()


def make_trial(what: Search, contrast: float, step_size: float, device: torch.device) -> Trial:
    """Sample the search's nodes with one pair of settings, and measure."""
    settings = what.settings.model_copy(update={"contrast": contrast, "tilt": None, "step_size": step_size})
    unit = Unit("trial", what.layer, what.nodes, settings.chains)
    rows = UnitSampler(what.network, settings, what.images, device).sample(unit)
    heads = rows.filter(pc.and_(pc.equal(rows["chain"], 0), pc.equal(rows["draw"], 0)))
    # A node whose chains never moved has no effective sample size: it counts as 0.
    ess = pc.fill_null(pc.if_else(pc.is_nan(heads["ess_bulk"]), 0.0, heads["ess_bulk"]), 0.0)
    # With a given step size all trajectories of a node take the same steps, those of warm-up too.
    share = settings.iterations / (settings.warm_up + settings.iterations)
    firsts = rows.filter(pc.equal(rows["draw"], 0))
    gradients = share * pc.sum(firsts["gradients"]).as_py() / len(what.nodes)
    return Trial(
        contrast=contrast,
        step_size=step_size,
        ess_rate=1000 * pc.mean(ess).as_py() / gradients,
        share=pc.mean(pc.equal(rows["top_channel"], rows["channel"]).cast("int8")).as_py(),
        acceptance=pc.mean(rows["acceptance_rate"]).as_py(),
        tilt=pc.mean(rows["tilt"]).as_py(),
    )


def _name(pair: tuple[float, float]) -> str:
    digest = hashlib.sha256(json.dumps(pair).encode()).hexdigest()[:16]
    return f"trials/{digest}.json"


def _profile(what: Search, best: Trial) -> bytes:
    document = {
        "network": what.network.name,
        "weights_hash": what.network.weights_hash,
        "layers": {what.layer: {"contrast": best.contrast, "step_size": best.step_size}},
    }
    text: str = yaml.safe_dump(document, sort_keys=False)
    return text.encode()


class _Counter(tune.Callback):
    """Reports how many trials are done."""

    def __init__(self, on_done: Callable[[int], None]) -> None:
        self._on_done = on_done
        self._done = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles its callbacks for a restore that is never asked for; a display cannot be pickled.
        return _Counter, (_ignore,)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count one more."""
        del iteration, trials, trial, info
        self._done += 1
        self._on_done(self._done)


def _ignore(count: int) -> None:
    del count
