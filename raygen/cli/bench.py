"""``raygen bench NAME``: a table, or with --json one object a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

import click

from raygen.bench import (
    FarmBenchSettings,
    KernelsBenchSettings,
    NodesBenchSettings,
    Result,
    SamplerBenchSettings,
    Table1Settings,
    TrainingBenchSettings,
    bench_farm,
    bench_kernels,
    bench_nodes,
    bench_sampler,
    bench_table1,
    bench_training,
)
from raygen.cli.display import Display
from raygen.cli.options import configured
from raygen.cli.tables import table

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


@click.group()
def bench() -> None:
    """Measure speed: two things in one run, alternating.

    Each figure is a median of several rounds, beside that of the same thing done plainly. An absolute time means little
    on a shared machine.
    """


@bench.command()
@_json
@configured(SamplerBenchSettings)
def sampler(settings: SamplerBenchSettings, *, as_json: bool) -> None:
    """Compare the sampler with a bare loop.

    Of the same network evaluations on the same batch; cheap forces with the plain network in float32; peak memory;
    and on CUDA the gradients with the device's peak.
    """
    _print("sampler", bench_sampler(settings), as_json=as_json)


@bench.command()
@_json
@configured(KernelsBenchSettings)
def kernels(settings: KernelsBenchSettings, *, as_json: bool) -> None:
    """Compare the default kernel with the paper's.

    Gradients until the chains arrive, and effective sample size there. Takes some ten minutes.
    """
    _print("kernels", bench_kernels(settings), as_json=as_json)


@bench.command()
@_json
@configured(FarmBenchSettings)
def farm(settings: FarmBenchSettings, *, as_json: bool) -> None:
    """Measure the farm of actors.

    Against bare processes that do the same; with units without work; and its scheduler in virtual time, with thousands
    of actors. Takes some minutes.
    """
    _print("farm", bench_farm(settings), as_json=as_json)


@bench.command()
@_json
@configured(NodesBenchSettings)
def nodes(settings: NodesBenchSettings, *, as_json: bool) -> None:
    """Compare cut networks with whole ones, and packed nodes.

    Gradients of early, middle and late convolutions with the network cut and cropped, against the whole network at
    full size; and many nodes of an early layer in one batch against one by one. Takes some minutes.
    """
    _print("nodes", bench_nodes(settings), as_json=as_json)


@bench.command()
@_json
@configured(TrainingBenchSettings)
def training(settings: TrainingBenchSettings, *, as_json: bool) -> None:
    """Compare what training costs.

    Generative with discriminative steps; channels-last bfloat16 with a plain loop in float32; Ray Train with the loop
    alone, two workers with one; and the bytes of the normaliser's messages. One thread a process.
    """
    _print("training", bench_training(settings), as_json=as_json)


@bench.command()
@_json
@configured(Table1Settings)
def table1(settings: Table1Settings, *, as_json: bool) -> None:
    """Train the paper's table anew.

    LeNet on MNIST, discriminative, generative, and generative then discriminative, for several seeds, beside the
    paper's test errors. Takes half an hour on two cores; with --out a stopped one goes on.
    """
    _print("table1", bench_table1(settings), as_json=as_json)


def _print(name: str, results: Iterable[Result], *, as_json: bool) -> None:
    if as_json:
        for result in results:
            click.echo(json.dumps(asdict(result)))
        return
    found = _watch(name, results)
    rows = [(each.case, _figure(each.value), each.unit, _figure(each.baseline), f"{each.ratio:.3f}") for each in found]
    click.echo(table(("case", "value", "unit", "baseline", "ratio"), rows))


def _watch(name: str, results: Iterable[Result]) -> list[Result]:
    """Tell each case as soon as it is measured: of a benchmark that is stopped, those are known."""
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
