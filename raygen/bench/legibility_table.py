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
        own_top_1, own_rank: the same by the sampled network.
        specificity: median rank of the node among the channels of its layer, responses being standardised.
        diversity: mean perceptual distance of two images of a node.
        interpretability: machine interpretability score, 0.5 at chance.
    """

    second_top_1: float
    second_top_5: float
    second_rank: float
    own_top_1: float
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


HEADER = ("kind", "images", "gradients", "seconds", "2nd top-1", "2nd top-5", "2nd rank", "own top-1", "own rank",
          "specificity", "diversity", "interpretability")  # fmt: skip


def cells(found: KindMeasured) -> tuple[str, ...]:
    """Return a line of the table, as ``HEADER`` names it."""
    measures = found.measures
    return (
        found.kind,
        str(found.images),
        f"{found.gradients:,.0f}",
        f"{found.seconds:,.0f}",
        _share(measures.second_top_1),
        _share(measures.second_top_5),
        _known(measures.second_rank, "g"),
        _share(measures.own_top_1),
        _known(measures.own_rank, "g"),
        _known(measures.specificity, "g"),
        _known(measures.diversity, ".3f"),
        _known(measures.interpretability, ".3f"),
    )


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.0f} %"


def _known(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


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
    shares = dict.fromkeys(("second_top_1", "second_top_5", "own_top_1", "interpretability"), "share")
    units = {**shares, "diversity": "distance"}
    other = asdict(baseline.measures)
    for name, value in asdict(found.measures).items():
        if not math.isnan(value) and not math.isnan(other[name]):
            case = f"{found.kind}, {name.replace('_', ' ')}"
            yield single("legibility", case, units.get(name, "rank"), value, other[name])


def _plain(measures: Measures) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in asdict(measures).items()}
