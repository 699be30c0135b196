"""Whether chains have converged, and what their draws are worth: by ArviZ, on a few numbers a state."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raygen.hmc.chains import Trace
from raygen.hmc.settings import check_superchains

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Diagnostics:
    """The diagnostics of one node over its chains.

    Attributes:
        r_hat: rank-normalised split R-hat of the score (Vehtari et al. 2021); NaN for fewer than four draws.
        r_hat_projections: the largest R-hat of the position's fixed random projections.
        ess_bulk: effective sample size of the score's bulk, all chains together.
        ess_tail: of its 5 % and 95 % quantiles.
        bfmi: smallest Bayesian fraction of missing information of a chain (E-BFMI).
        acceptance_rate: mean acceptance probability.
        divergences: trajectories that diverged, all chains together.
        r_hat_nested: nested R-hat of the score (Margossian et al. 2024): many short chains have converged when groups
            of them that share a start agree, long before each does alone; NaN where no superchains are given.
    """

    r_hat: float
    r_hat_projections: float
    ess_bulk: float
    ess_tail: float
    bfmi: float
    acceptance_rate: float
    divergences: int
    r_hat_nested: float = math.nan

    def converged(self, *, r_hat: float, ess: float) -> bool:
        """Whether both R-hats are at most ``r_hat`` and the bulk's effective sample size is at least ``ess``."""
        # Each by itself: of a number and NaN, max() may return the number.
        return self.r_hat <= r_hat and self.r_hat_projections <= r_hat and self.ess_bulk >= ess


def diagnose(trace: Trace, chains: int, superchains: int | None = None) -> tuple[Diagnostics, ...]:
    """Return the diagnostics of each node.

    Args:
        trace: of all chains, those of a node side by side.
        chains: of each node.
        superchains: groups of a node's chains that share a start, as ``Streams.start`` makes them. Chains with starts
            of their own say nothing here: their groups agree before they have moved.

    Raises:
        SettingsError: if ``superchains`` is no divisor of ``chains``, or below 2.
    """
    groups = None if superchains is None else _groups(superchains, chains)
    score = _by_node(trace.score.double().cpu().numpy(), chains)
    energy = _by_node(trace.energy.double().cpu().numpy(), chains)
    projections = trace.projections.double().cpu().numpy()
    acceptance = _by_node(trace.acceptance.double().cpu().numpy(), chains)
    diverged = _by_node(trace.diverged.double().cpu().numpy(), chains)
    along = [_by_node(projections[:, :, p], chains) for p in range(projections.shape[2])]
    return tuple(
        Diagnostics(
            r_hat=_statistic("rhat", score[node]),
            r_hat_projections=float(np.max([_statistic("rhat", axis[node]) for axis in along])),
            ess_bulk=_statistic("ess", score[node], method="bulk"),
            ess_tail=_statistic("ess", score[node], method="tail", prob=(0.05, 0.95)),
            bfmi=_statistic("bfmi", energy[node]),
            acceptance_rate=float(acceptance[node].mean()),
            divergences=int(diverged[node].sum()),
            r_hat_nested=math.nan if groups is None else _statistic("rhat_nested", score[node], superchain_ids=groups),
        )
        for node in range(score.shape[0])
    )


def _groups(superchains: int, chains: int) -> NDArray[np.int64]:
    return np.arange(chains) // (chains // check_superchains(superchains, chains))


def _by_node(record: Array, chains: int) -> Array:
    """Return a record (T, N) as (nodes, chains, T)."""
    return record.T.reshape(-1, chains, record.shape[0])


def _statistic(name: str, draws: Array, **options: object) -> float:
    """Return a statistic of ``draws`` (chains, T); NaN where it is not defined (constant, too few, not finite)."""
    if draws.shape[1] < 4 or not np.isfinite(draws).all() or np.ptp(draws) == 0:
        return math.nan
    from arviz_stats.base.array import array_stats  # noqa: PLC0415  (a second to import, which training never needs)

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return float(np.min(getattr(array_stats, name)(draws, **options)))
