"""raygen with objects, for notebooks and scripts: a torch module goes in, images come out. ``import raygen`` offers it.

Everything runs in this process. The same with files, and on clusters, is in ``raygen.stages``.
"""

from __future__ import annotations

import html
import io
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor, nn

from raygen import networks, stages
from raygen.config import LookConfig, SampleConfig
from raygen.errors import InputError, NodeError, SettingsError, closest
from raygen.gallery import build_gallery, fragment
from raygen.networks import Layer, Network
from raygen.runs import FarmReport
from raygen.store import Run

IMAGE = (3, 224, 224)
"""(C, H, W) of a network's input where none is given: a photograph."""


class Layers(tuple[Layer, ...]):
    """The layers of a network, in the order in which they run; shows itself as a table."""

    def __str__(self) -> str:
        lines = [[_cell(getattr(layer, column)) for column in _COLUMNS] for layer in self]
        widths = [max(map(len, column)) for column in zip(_COLUMNS, *lines, strict=True)]
        rows = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in (_COLUMNS, *lines))
        return "\n".join(rows)

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        body = (row([_cell(getattr(layer, column)) for column in _COLUMNS], "td") for layer in self)
        return f"<table>{row(_COLUMNS, 'th')}{''.join(body)}</table>"


_COLUMNS = tuple(column.name for column in fields(Layer))


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else ""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class NodeImages:
    """What was drawn of one node, in the order of its chains and their draws.

    Attributes:
        table: a row an image, with all columns of a run, see ``raygen help storage``.
    """

    table: pa.Table

    @property
    def images(self) -> Tensor:
        """(N, C, H, W) from 0 to 1, as the gallery shows them."""
        pictures = (np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in self.table["image"].to_pylist())
        return (
            torch.stack([torch.from_numpy(np.atleast_3d(pixels).copy()).permute(2, 0, 1) for pixels in pictures]) / 255
        )

    @property
    def scores(self) -> Tensor:
        """(N,) of the images as they were drawn, before they became 8 bits."""
        return torch.tensor(self.table["score"].to_pylist())

    @property
    def chains(self) -> Tensor:
        """(N,) the number of each image's chain."""
        return torch.tensor(self.table["chain"].to_pylist())

    def _repr_html_(self) -> str:
        return fragment([self.table])


@dataclass(frozen=True)
class Samples:
    """Images of nodes: of a run that was made here, or opened.

    ``samples["conv2:3"]`` are those of one node. A notebook shows a tile of each.

    Attributes:
        run: in its folder.
    """

    run: Run

    @cached_property
    def _tables(self) -> dict[str, pa.Table]:
        return dict(self.run.layers())

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The nodes, in the run's order."""
        return tuple(dict.fromkeys(name for table in self._tables.values() for name in table["node"].to_pylist()))

    def __getitem__(self, node: str) -> NodeImages:
        """Return what was drawn of ``node``, by its name or that of its class.

        Raises:
            NodeError: if it is none of ``nodes``.
        """
        for table in self._tables.values():
            for column in ("node", "class_name"):
                found = [index for index, name in enumerate(table[column].to_pylist()) if name == node]
                if found:
                    return NodeImages(table.take(found))
        raise NodeError(
            f"unknown node {node!r}", where=f"run {self.run.location.title}", right=closest(node, self.nodes)
        )

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.nodes)

    def __repr__(self) -> str:
        shown = ", ".join(self.nodes[:6]) + (", ..." if len(self) > 6 else "")
        return f"Samples of {len(self)} nodes ({shown}) in {self.run.location.title}"

    def _repr_html_(self) -> str:
        return fragment(self._tables.values())

    def gallery(self) -> str:
        """Write the run's pages, and return the address of the first."""
        return build_gallery(self.run).index


def nodes(module: nn.Module, *, input_shape: Sequence[int] = IMAGE, class_names: Sequence[str] = ()) -> Layers:
    """Return the layers of ``module`` whose nodes can be sampled.

    Args:
        module: maps (N, C, H, W) to anything; not changed.
        input_shape: (C, H, W).
        class_names: in the order of the outputs.

    Raises:
        InputError: if it does not take such images.
    """
    return Layers(networks.list_layers(_network(module, input_shape, None, None, class_names)))


def score(
    module: nn.Module,
    node: str,
    images: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] = (),
) -> Tensor:
    """Return the score of ``node`` for each image, (N,): what sampling tilts by.

    Of a map that is the response at its centre, or at the node's position: ``conv2:7@3,4``; with ``@mean`` the mean.

    Args:
        module: as in :func:`nodes`.
        node: one node, such as ``conv2:7`` or ``fc:ostrich``.
        images: (N, C, H, W) from 0 to 1, of the size that the network takes.
        mean: of each channel, subtracted from the images first.
        std: what each channel is then divided by.
        class_names: as in :func:`nodes`.

    Raises:
        InputError: if the node or the images do not fit.
    """
    if images.ndim != 4:
        raise InputError(
            f"images of shape {tuple(images.shape)}", where="score", right="give (N, C, H, W), from 0 to 1"
        )
    network = _network(module, tuple(images.shape[1:]), mean, std, class_names)
    found = networks.parse_nodes(node, network, networks.list_layers(network))
    if len(found) != 1:
        raise NodeError(f"{len(found)} nodes", where=f"score of {node}", right="give one node")
    scores = networks.score_nodes(networks.cut_for(network, found[0], crop=False), found, len(images))
    shift, scale = (torch.tensor(values, dtype=images.dtype)[:, None, None] for values in (network.mean, network.std))
    with torch.no_grad():
        found_scores: Tensor = scores((images.detach().cpu() - shift) / scale)
    return found_scores


def sample(
    module: nn.Module,
    nodes: str,
    *,
    input_shape: Sequence[int] = IMAGE,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] = (),
    out: str | None = None,
    on_progress: Callable[[FarmReport], None] = lambda _: None,
    **settings: Any,
) -> Samples:
    """Draw samples of nodes of ``module`` by Hamiltonian Monte Carlo, in this process.

    Args:
        module: as in :func:`nodes`.
        nodes: such as ``"layer1.1:3 fc:0-9"``, see ``raygen help nodes``.
        input_shape: as in :func:`nodes`.
        mean: of each channel, for pixels from 0 to 1; 0 where not given.
        std: divisor of each channel; 1 where not given.
        class_names: as in :func:`nodes`.
        out: folder or URI of the run, which the same call continues; if not given, a folder that lives as long as what
            is returned.
        on_progress: called with a report now and then.
        **settings: as the options of ``raygen sample``, such as ``chains=8, draws=4, seed=1``.

    Raises:
        InputError: if an argument is wrong.
    """
    return _sample(SampleConfig, module, nodes, (input_shape, mean, std, class_names), out, on_progress, settings)


def look(
    module: nn.Module,
    nodes: str,
    *,
    input_shape: Sequence[int] = IMAGE,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] = (),
    out: str | None = None,
    on_progress: Callable[[FarmReport], None] = lambda _: None,
    **settings: Any,
) -> Samples:
    """Climb to modes of nodes of ``module``: the quickest pictures, and not samples. Arguments as of :func:`sample`.

    Raises:
        InputError: if an argument is wrong.
    """
    return _sample(LookConfig, module, nodes, (input_shape, mean, std, class_names), out, on_progress, settings)


def open(folder: str) -> Samples:
    """Return the images of the run in a folder or at a URI.

    Raises:
        InputError: if there is none.
    """
    return Samples(Run.open(folder))


def _network(
    module: nn.Module,
    input_shape: Sequence[int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    class_names: Sequence[str],
) -> Network:
    name = type(module).__name__
    return networks.wrap_network(
        module, name=name, input_shape=input_shape, mean=mean, std=std, class_names=class_names
    )  # fmt: skip


def _sample(
    kind: type[SampleConfig] | type[LookConfig],
    module: nn.Module,
    nodes: str,
    given: tuple[Any, Any, Any, Any],
    out: str | None,
    on_progress: Callable[[FarmReport], None],
    settings: dict[str, Any],
) -> Samples:
    where = f"raygen.{'look' if kind is LookConfig else 'sample'}"
    for name in settings.keys() & networks.NetworkSettings.model_fields.keys():
        raise SettingsError(f"{name} is for networks by name", where=where, right="leave it out: the module is given")
    folder = tempfile.mkdtemp(prefix="raygen-") if out is None else out
    threads = torch.get_num_threads()
    try:
        config = kind.parse({"threads": threads, **settings, "nodes": nodes, "out": folder, "local": True}, where=where)
        plain = config.sampling if isinstance(config, LookConfig) else config
        samples = Samples(stages.sample_module(plain, _network(module, *given), on_progress).run)
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        torch.set_num_threads(threads)
    if out is None:
        weakref.finalize(samples, shutil.rmtree, folder, ignore_errors=True)
    return samples
