"""``raygen bench NAME``: a table, or with --json one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

import click

from raygen.bench import KernelsBenchSettings, Result, SamplerBenchSettings, bench_kernels, bench_sampler
from raygen.cli.options import configured
from raygen.cli.tables import table

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


@click.group()
def bench() -> None:
    """Measure speed: two things in one run, alternating, medians."""


@bench.command()
@_json
@configured(SamplerBenchSettings)
def sampler(settings: SamplerBenchSettings, *, as_json: bool) -> None:
    """Compare the sampler with a bare loop.

    Of the same network evaluations on the same batch; and cheap forces with the plain network in float32.
    """
    _print(bench_sampler(settings), as_json=as_json)


@bench.command()
@_json
@configured(KernelsBenchSettings)
def kernels(settings: KernelsBenchSettings, *, as_json: bool) -> None:
    """Compare the default kernel with the paper's.

    Gradients until the chains arrive, and effective sample size there. Takes some ten minutes.
    """
    _print(bench_kernels(settings), as_json=as_json)


def _print(results: Iterable[Result], *, as_json: bool) -> None:
    if as_json:
        for result in results:
            click.echo(json.dumps(asdict(result)))
        return
    rows = [
        (found.case, f"{found.value:,.0f}", found.unit, f"{found.baseline:,.0f}", f"{found.ratio:.3f}")
        for found in results
    ]
    click.echo(table(("case", "value", "unit", "baseline", "ratio"), rows))
