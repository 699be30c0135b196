"""``raygen bench NAME``: a table, or with --json one object a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from raygen import bench as benches
from raygen.bench import (
    FarmBenchSettings,
    KernelsBenchSettings,
    LegibilityBenchSettings,
    NodesBenchSettings,
    SamplerBenchSettings,
    Table1Settings,
    TrainingBenchSettings,
)
from raygen.cli.display import Display
from raygen.cli.options import SettingsCommand, configured
from raygen.cli.tables import table

if TYPE_CHECKING:
    from raygen.bench import KindMeasured, Result

_json = click.option("--json", "as_json", is_flag=True, help="print one JSON object a line")


@click.group()
def bench() -> None:
    """Measure speed or legibility: two things in one run.

    Each figure is a median of several rounds, beside that of the same thing done plainly. An absolute time means little
    on a shared machine.
    """


@bench.command(cls=SettingsCommand)
@_json
@configured(SamplerBenchSettings)
def sampler(settings: SamplerBenchSettings, *, as_json: bool) -> None:
    """Compare the sampler with a bare loop.

    Both evaluate the same network on the same batch. Also compares cheap forces with the plain network in float32, and
    measures peak memory; on CUDA, compares the gradients with the device's peak.
    """
    _print("sampler", benches.bench_sampler(settings), as_json=as_json)


@bench.command(cls=SettingsCommand)
@_json
@configured(KernelsBenchSettings)
def kernels(settings: KernelsBenchSettings, *, as_json: bool) -> None:
    """Compare the default kernel with the paper's.

    Counts the gradients until the chains arrive, and measures the effective sample size there. Takes about ten minutes.
    """
    _print("kernels", benches.bench_kernels(settings), as_json=as_json)


@bench.command(cls=SettingsCommand)
@_json
@configured(FarmBenchSettings)
def farm(settings: FarmBenchSettings, *, as_json: bool) -> None:
    """Measure the farm of actors.

    Compares it with bare processes that do the same, runs units without work, and runs its scheduler in virtual time
    with thousands of actors. Takes some minutes.
    """
    _print("farm", benches.bench_farm(settings), as_json=as_json)


@bench.command(cls=SettingsCommand)
@_json
@configured(NodesBenchSettings)
def nodes(settings: NodesBenchSettings, *, as_json: bool) -> None:
    """Compare cut networks with whole ones, and packed nodes.

    Compares gradients of early, middle and late convolutions, with the network cut and cropped, with those of the whole
    network at full size; and many nodes of an early layer in one batch with one by one. Takes some minutes.
    """
    _print("nodes", benches.bench_nodes(settings), as_json=as_json)


@bench.command(cls=SettingsCommand)
@_json
@configured(LegibilityBenchSettings)
def legibility(settings: LegibilityBenchSettings, *, as_json: bool) -> None:
    """Measure how legible the samples of nodes are.

    Samples nodes, and makes images of them with an optimiser of Lucent's kind: with as many gradients, and in as much
    time. Shows what a second network makes of either and of natural images: ranks of the class, diversity, and the
    machine interpretability score. Keeps the table and a sheet of each kind of images in --out.
    """
    found = list(_kinds(benches.bench_legibility(settings), quiet=as_json))
    if as_json:
        baseline = next(each for each in found if each.kind == benches.OPTIMISER)
        _print("legibility", (result for each in found for result in benches.as_results(each, baseline)), as_json=True)
    else:
        click.echo(table(benches.HEADER, [benches.cells(each) for each in found]))


@bench.command(cls=SettingsCommand)
@_json
@configured(TrainingBenchSettings)
def training(settings: TrainingBenchSettings, *, as_json: bool) -> None:
    """Compare what training costs.

    Generative with discriminative steps; channels-last bfloat16 with a plain loop in float32; Ray Train with the loop
    alone; two workers with one. Counts the bytes of the normaliser's messages. Each process has one thread.
    """
    _print("training", benches.bench_training(settings), as_json=as_json)


@bench.command(cls=SettingsCommand)
@_json
@configured(Table1Settings)
def table1(settings: Table1Settings, *, as_json: bool) -> None:
    """Train the networks of the paper's Table 1.

    LeNet on MNIST, discriminative, generative, and generative then discriminative, with several seeds; shows the test
    errors beside the paper's. Takes half an hour on two cores; with --out, a stopped one continues.
    """
    _print("table1", benches.bench_table1(settings), as_json=as_json)


def _print(name: str, results: Iterable[Result], *, as_json: bool) -> None:
    if as_json:
        for result in results:
            click.echo(json.dumps(asdict(result)))
        return
    found = _watch(name, results)
    rows = [(each.case, _figure(each.value), each.unit, _figure(each.baseline), f"{each.ratio:.3f}") for each in found]
    click.echo(table(("case", "value", "unit", "baseline", "ratio"), rows))


def _kinds(kinds: Iterable[KindMeasured], *, quiet: bool) -> Iterator[KindMeasured]:
    """Show each kind of images as soon as it is measured, unless ``quiet``."""
    display = None if quiet else Display(sys.stderr)
    if display is not None:
        display.stage("bench legibility")
    try:
        for found in kinds:
            if display is not None:
                named = zip(benches.HEADER[1:], benches.cells(found)[1:], strict=True)
                display.say(f"{found.kind}: {', '.join(f'{name} {value}' for name, value in named)}")
            yield found
    finally:
        if display is not None:
            display.close()


def _watch(name: str, results: Iterable[Result]) -> list[Result]:
    """Show each case as soon as it is measured: of a benchmark that is stopped, those are known."""
    display, found = Display(sys.stderr), []
    display.stage(f"bench {name}")
    try:
        for result in results:
            display.say(f"{result.case}: {_figure(result.value)} {result.unit}, ratio {result.ratio:.3f}")
            found.append(result)
    finally:
        display.close()
    return found


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
