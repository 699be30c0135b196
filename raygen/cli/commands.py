"""Each command: its options, its stage, and what it says."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from raygen import networks, stages
from raygen.cli.display import Display
from raygen.cli.epochs import EpochLines, show_trained
from raygen.cli.options import SettingsCommand, configured, with_folder
from raygen.cli.reports import plan_lines, show_farm, show_gallery, show_plan, show_reference, show_samples
from raygen.cli.tables import class_table, layer_line, layer_table, trial_table
from raygen.config import (
    DemoConfig,
    GalleryConfig,
    LookConfig,
    NodesConfig,
    PipelineConfig,
    PretrainConfig,
    ReferenceConfig,
    SampleConfig,
    TuneConfig,
)
from raygen.errors import SettingsError
from raygen.storage import copyable, title_of
from raygen.text import for_shell

if TYPE_CHECKING:
    from raygen.training import TrainingFolder


@click.command(cls=SettingsCommand, epilog="Manual: raygen help commands")
@configured(DemoConfig)
def demo(config: DemoConfig) -> None:
    """Try everything on bundled digits.

    Pretrains LeNet on the 1,797 digits that come with scikit-learn, samples its nodes and makes a gallery. Nothing is
    downloaded. The same command continues where it was stopped.
    """
    _run_pipeline(config.pipeline)


@click.command(cls=SettingsCommand, epilog="Manual: raygen help commands")
@configured(PipelineConfig)
def pipeline(config: PipelineConfig) -> None:
    """Pretrain, sample and make a gallery in one go.

    The training goes to the subfolder pretrain of the run's folder.
    """
    _run_pipeline(config)


@click.command(cls=SettingsCommand, epilog="Manual: raygen help training")
@configured(PretrainConfig)
def pretrain(config: PretrainConfig) -> None:
    """Train a network generatively, then refine it.

    Runs generative epochs, then discriminative ones, on Ray Train or in this process (--local). The same command
    continues where it was stopped.
    """
    display = Display(sys.stdout)
    display.stage("pretrain")
    try:
        folder = stages.pretrain(config, EpochLines(display, epochs=config.epochs, batch_size=config.batch_size))
    finally:
        display.close()
    show_trained(display, folder)


@click.command(cls=SettingsCommand, epilog="Manual: raygen help nodes")
@click.option("--classes", is_flag=True, help="list the classes and their channels instead")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a line")
@configured(NodesConfig)
def nodes(config: NodesConfig, *, as_json: bool, classes: bool) -> None:
    """List the layers whose nodes can be sampled.

    Shows the size of each layer's map, what one response sees (receptive field and stride, in pixels), and the cost of
    one gradient of a node, with the network cut and cropped for it, as a part of the whole network's.

    An option --nodes takes layer:channel, layer:0-9,12, layer:class or layer:*, and more: see raygen help nodes.
    """
    # A list of layers needs no weights.
    network = networks.load_network(config.model_copy(update={"weights": config.weights or "random"}))
    names = network.class_names
    if classes and as_json:
        click.echo("\n".join(json.dumps({"channel": channel, "name": name}) for channel, name in enumerate(names)))
    elif classes:
        click.echo(class_table(names))
    elif as_json:
        click.echo("\n".join(layer_line(layer, names) for layer in networks.list_layers(network)))
    else:
        click.echo(layer_table(networks.list_layers(network), names))


@click.command(cls=SettingsCommand, epilog="Manual: raygen help references-and-tilt")
@configured(TuneConfig)
def tune(config: TuneConfig) -> None:
    """Search a layer's tilt and step size.

    Tries each contrast with each step size on Ray Tune, and writes the best as a profile for raygen sample.
    """
    display = Display(sys.stdout)
    display.stage("tune")
    try:
        report = stages.tune(config, lambda done, total: display.update(f"{done} of {total} trials"))
    finally:
        display.close()
    display.table(trial_table(report.trials))
    use = f"raygen sample --profile {for_shell(copyable(report.profile))}"
    display.say(f"profile: {title_of(report.profile)} (use it with {use})")


@click.command(cls=SettingsCommand, epilog="Manual: raygen help references-and-tilt")
@configured(ReferenceConfig)
def reference(config: ReferenceConfig) -> None:
    """Fit a reference to images and save it.

    Writes a file for raygen sample --reference-file, which also says what it was fitted to. The reference is in the
    input units of the network; they do not depend on its weights.
    """
    show_reference(Display(sys.stdout), config.out, *stages.reference(config))


@click.command(cls=SettingsCommand, epilog="Manual: raygen help chains-and-convergence")
@click.option("--plan", "only_plan", is_flag=True, help="write the plan and show what it will cost; sample nothing")
@click.option("--json", "as_json", is_flag=True, help="with --plan: print one JSON object a line")
@configured(SampleConfig)
def sample(config: SampleConfig, *, only_plan: bool, as_json: bool) -> None:
    """Draw samples of nodes.

    Runs Hamiltonian Monte Carlo on a farm of Ray actors, or in this process (--local). The same command continues where
    it was stopped.
    """
    if only_plan:
        _plan(config, as_json=as_json)
        return
    if as_json:
        raise SettingsError("json without plan", where="options", right="give --plan as well, or leave out --json")
    display = _sample(config)
    display.say(f"pages: raygen gallery --out {for_shell(copyable(config.out))}")


@click.command(cls=SettingsCommand, epilog="Manual: raygen help references-and-tilt")
@configured(LookConfig)
def look(config: LookConfig) -> None:
    """Show at once what nodes respond to.

    Climbs, from a few random starts for each node, to a mode of the distribution that raygen sample draws from, under a
    score that holds for moved and zoomed images as well. A mode is the most typical image, not a sample. Then makes the
    pages, as raygen gallery does. The same command continues where it was stopped.
    """
    display = _sample(config.sampling)
    display.stage("gallery")
    try:
        summary = stages.gallery(config.out)
    finally:
        display.close()
    show_gallery(display, summary)


@click.command(cls=SettingsCommand, epilog="Manual: raygen help gallery")
@with_folder
@configured(GalleryConfig)
def gallery(config: GalleryConfig) -> None:
    """Make the pages and pictures of a run.

    RUN is its folder or URI, as --out.
    """
    show_gallery(Display(sys.stdout), stages.gallery(config.out))


def _sample(config: SampleConfig) -> Display:
    """Sample, and say what came of it; return where it was said."""
    display = Display(sys.stdout)
    display.stage("sample" if config.mode_steps is None else "look")
    try:
        sampled = stages.sample(config, lambda report: show_farm(display, report))
    finally:
        display.close()
    show_samples(display, sampled)
    return display


def _plan(config: SampleConfig, *, as_json: bool) -> None:
    display, actors = Display(sys.stdout), config.actors or 1
    if not as_json:
        display.stage("plan")
    try:
        report = stages.plan(config, None if as_json else display.update)
    finally:
        display.close()
    if not as_json:
        show_plan(display, report, actors=actors, threads=config.threads, gpus=config.gpus)
        return
    for line in plan_lines(report, actors=actors, threads=config.threads, gpus=config.gpus):
        click.echo(json.dumps(line))


def _run_pipeline(config: PipelineConfig) -> None:
    display = Display(sys.stdout)
    display.stage("pretrain")

    def on_trained(folder: TrainingFolder) -> None:
        display.close()
        show_trained(display, folder)
        display.stage("sample")

    try:
        sampled = stages.pipeline(
            config,
            on_epoch=EpochLines(display, epochs=config.epochs, batch_size=config.batch_size),
            on_trained=on_trained,
            on_progress=lambda report: show_farm(display, report),
        )
        display.close()
        show_samples(display, sampled)
        display.stage("gallery")
        summary = stages.gallery(config.out)
    finally:
        display.close()
    show_gallery(display, summary)
