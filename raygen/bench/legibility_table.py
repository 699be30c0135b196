"""What ``raygen bench legibility`` finds of images of each kind, and the table of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from raygen.bench.results import Result, single


@dataclass(frozen=True)
class Measures:
    """Of a node's images of one kind, or of all nodes'; NaN where there is none, such as a rank without a class.

    Attributes:
        second_top_1, second_top_5: share of images whose class the second network ranks so.
        second_rank: median rank of the class by the second network, 0 for the first.
        own_rank: the same by the sampled network.
        specificity: median rank of the node among the channels of its layer, responses being standardised.
        diversity: mean perceptual distance of two images of a node.
        interpretability: machine interpretability score, 0.5 at chance.
    """

    second_top_1: float
    second_top_5: float
    second_rank: float
    own_rank: float
    specificity: float
    diversity: float
    interpretability: float


@dataclass(frozen=True)
class KindMeasured:
    """Images of one kind.

    Attributes:
        kind: draws, means, modes, optimiser, natural.
        images: of all nodes.
        gradients: of the network for each image, views counted one by one; the mean over the nodes.
        seconds: they took.
        measures: over the nodes, see ``over_nodes``.
        nodes: of each node, by its name.
    """

    kind: str
    images: int
    gradients: float
    seconds: float
    measures: Measures
    nodes: Mapping[str, Measures]

    def document(self) -> dict[str, object]:
        """Return plain values for a JSON file, null where there is no figure."""
        return {
            "kind": self.kind,
            "images": self.images,
            "gradients": self.gradients,
            "seconds": self.seconds,
            **_plain(self.measures),
            "nodes": {name: _plain(found) for name, found in self.nodes.items()},
        }


HEADER = ("kind", "images", "gradients", "seconds", "2nd top-1", "2nd top-5", "2nd rank", "own rank", "specificity",
          "diversity", "interpretability")  # fmt: skip


def cells(found: KindMeasured) -> tuple[str, ...]:
    """Return a line of the table, as ``HEADER`` names it."""
    measures = found.measures
    shares = (measures.second_top_1, measures.second_top_5)
    ranks = (measures.second_rank, measures.own_rank, measures.specificity)
    return (
        found.kind,
        str(found.images),
        f"{found.gradients:,.0f}",
        f"{found.seconds:,.0f}",
        *("-" if math.isnan(share) else f"{100 * share:.0f} %" for share in shares),
        *("-" if math.isnan(rank) else f"{rank:g}" for rank in ranks),
        *("-" if math.isnan(value) else f"{value:.3f}" for value in (measures.diversity, measures.interpretability)),
    )


def over_nodes(nodes: Sequence[Measures]) -> Measures:
    """Return the medians of ranks and the means of all else, over those nodes that have such a figure."""
    found = {}
    for name in (field.name for field in fields(Measures)):
        values = [value for node in nodes if not math.isnan(value := getattr(node, name))]
        middle = statistics.median if name in ("second_rank", "own_rank", "specificity") else statistics.fmean
        found[name] = middle(values) if values else math.nan
    return Measures(**found)


def as_results(found: KindMeasured, baseline: KindMeasured) -> Iterator[Result]:
    """Yield each figure that both kinds have, beside that of the baseline."""
    units = {"second_top_1": "share", "second_top_5": "share", "diversity": "distance", "interpretability": "share"}
    other = asdict(baseline.measures)
    for name, value in asdict(found.measures).items():
        if not math.isnan(value) and not math.isnan(other[name]):
            case = f"{found.kind}, {name.replace('_', ' ')}"
            yield single("legibility", case, units.get(name, "rank"), value, other[name])


def _plain(measures: Measures) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in asdict(measures).items()}
