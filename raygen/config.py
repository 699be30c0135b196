"""The configuration of each command, composed of what the components define.

One flat set of names: a setting is written the same in a YAML file, as an option and in ``run.json``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, model_validator

from raygen.data import DataSettings
from raygen.documents import parse_yaml, read_text
from raygen.errors import SettingsError
from raygen.networks import NetworkSettings
from raygen.recipes import RECIPES, read_recipe
from raygen.sampling import MODE_STEPS, ModeSettings, SamplingSettings
from raygen.settings import Group, Settings
from raygen.storage import below
from raygen.tilting import FitSettings
from raygen.training import TrainingSettings

Config = TypeVar("Config", bound=Settings)


class ClusterSettings(Settings):
    """The machines that do the work; they never change a result."""

    group: ClassVar[Group] = Group.COMPUTE

    address: str | None = Field(
        None, description="Ray cluster to join; if not set, RAY_ADDRESS, or else a new cluster of this machine alone"
    )
    threads: int = Field(1, ge=1, le=1024, description="CPU threads of each worker or actor")
    gpus: float = Field(0, ge=0, le=8, description="GPUs of each worker or actor (a share for actors); 0 uses the CPU")


class ComputeSettings(ClusterSettings):
    """What does the work: a cluster, or this process alone."""

    local: Annotated[bool, Group.MAIN] = Field(False, description="work in this process, without Ray")


class PretrainConfig(NetworkSettings, DataSettings, TrainingSettings, ComputeSettings):
    """``raygen pretrain``."""

    recipe: str | None = Field(
        None, description=f"settings of the paper, where you give no others: {', '.join(RECIPES)}"
    )
    out: str = Field(min_length=1, description="folder or URI of the training run")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of all random numbers")
    workers: Annotated[int | None, Group.COMPUTE] = Field(
        None, ge=1, le=4096, description="training processes; if not set, as many as fit, at most 2"
    )
    max_workers: Annotated[int | None, Group.COMPUTE] = Field(
        None, ge=1, le=4096, description="let training grow to this many processes as the cluster grows"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_recipe(cls, values: Any) -> Any:
        recipe = values.get("recipe") if isinstance(values, dict) else None
        return {**read_recipe(recipe), **values} if isinstance(recipe, str) else values


class NodesConfig(NetworkSettings):
    """``raygen nodes``."""


class FarmSettings(ComputeSettings):
    """The farm of processes that sample a run's nodes."""

    nodes: str = Field(
        description='nodes to sample: "conv2:0-9,12 ip2:*", "fc:ostrich,orange", "conv2:7@3,4"; see raygen help nodes'
    )
    out: str = Field(min_length=1, description="folder or URI of the run")
    actors: Annotated[int | None, Group.COMPUTE] = Field(
        None, ge=1, le=100_000, description="sampling processes; if not set, as many as fit"
    )
    max_actors: Annotated[int | None, Group.COMPUTE] = Field(
        None, ge=1, le=100_000, description="let sampling grow to this many processes as the cluster grows"
    )
    deadline: Annotated[float, Group.COMPUTE] = Field(
        600, gt=0, description="seconds without progress after which an actor counts as hung and is replaced"
    )
    save_every: Annotated[float, Group.COMPUTE] = Field(
        60, ge=0, description="seconds between saved states of an unfinished unit; 0 saves none"
    )


class SampleConfig(NetworkSettings, DataSettings, SamplingSettings, FarmSettings):
    """``raygen sample``."""

    profile: Annotated[str | None, Group.STEPS] = Field(
        None, description="file that raygen tune wrote, with settings for each layer"
    )


class LookConfig(NetworkSettings, DataSettings, ModeSettings, FarmSettings):
    """``raygen look``: the settings of ``raygen sample`` that decide modes."""

    @property
    def sampling(self) -> SampleConfig:
        """The same as a configuration of ``raygen sample``."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return SampleConfig.parse({**given, "mode_steps": self.mode_steps or MODE_STEPS}, where="look")


class ReferenceConfig(NetworkSettings, DataSettings, FitSettings):
    """``raygen reference``."""

    nodes: str | None = Field(
        None, description="nodes of one layer, for whose receptive field it is fitted; if not set, for the whole input"
    )
    crop: bool = Field(True, description="sample convolution nodes at the size of their receptive field")
    out: str = Field(min_length=1, description="file to write, such as reference.safetensors")


class GalleryConfig(Settings):
    """``raygen gallery``."""

    out: str = Field(min_length=1, description="folder or URI of the run")


class StatusConfig(Settings):
    """``raygen status``."""

    out: str = Field(min_length=1, description="folder or URI of the run, or of a training")


class VerifyConfig(Settings):
    """``raygen verify``."""

    out: str = Field(min_length=1, description="folder or URI of the run, or of a training")


class TuneConfig(NetworkSettings, DataSettings, SamplingSettings, ClusterSettings):
    """``raygen tune``."""

    nodes: str = Field(description="nodes of one layer to try settings on")
    out: str = Field(min_length=1, description="folder of the search; the profile is written there as profile.yaml")
    actors: Annotated[int | None, Group.COMPUTE] = Field(
        None, ge=1, le=100_000, description="trials at once; if not set, as many as fit"
    )
    contrasts: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field(
        (1.0, 4.0, 16.0), min_length=1, description="contrasts to try"
    )
    step_sizes: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(
        (0.02, 0.05, 0.1, 0.2), min_length=1, description="step sizes to try"
    )


class PipelineConfig(PretrainConfig, SampleConfig):
    """``raygen pipeline``: pretrain, sample and gallery in one folder."""

    out: str = Field(min_length=1, description="folder or URI of the run; the training goes to its subfolder pretrain")

    @property
    def pretraining(self) -> PretrainConfig:
        """The first stage."""
        # Actors may share a GPU, a training worker takes it whole.
        changes = {"out": below(self.out, "pretrain"), "gpus": float(math.ceil(self.gpus))}
        return PretrainConfig.part_of(self).model_copy(update=changes)

    def sampling(self, weights: str) -> SampleConfig:
        """Return the second stage, of the trained network in ``weights``, which says which network it is."""
        whole = SampleConfig.part_of(self)
        trained = whole.model_copy(update={"weights": weights})
        # A factory is imported only where the user named it.
        trained.model_fields_set.difference_update({"arguments"} if ":" in self.network else {"network", "arguments"})
        return trained


class DemoConfig(Settings):
    """``raygen demo``."""

    out: str = Field("raygen-demo", min_length=1, description="folder of the demo")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of all random numbers")
    workers: Annotated[int | None, Group.COMPUTE] = Field(
        None, ge=1, le=4096, description="training processes; if not set, as many as fit, at most 2"
    )
    actors: Annotated[int | None, Group.COMPUTE] = Field(
        None, ge=1, le=4096, description="sampling processes; if not set, as many as fit"
    )

    @property
    def pipeline(self) -> PipelineConfig:
        """The pipeline that the demo runs: LeNet on the digits, its classes and its first convolution."""
        return PipelineConfig.parse(
            {
                **self.model_dump(),
                "data": "digits",
                "epochs": 30,
                "generative_epochs": 20,
                "nodes": "ip2:* conv1:*",
                # The Gaussian of the digits: what the tilt adds to it can be read as a digit.
                "reference": "fitted",
                "contrast": 4.0,
                # So mild a tilt is followed at the largest angle with few steps.
                "steps": 4,
                "warm_up": 60,
                "batch": 40,
            },
            where="demo",
        )


def load_config(kind: type[Config], file: str | None, options: Mapping[str, Any]) -> Config:
    """Return the configuration of a command: what ``file`` says, overridden by ``options``.

    Raises:
        SettingsError: if the file cannot be read, or a name or value is wrong.
    """
    if file is None:
        return kind.parse(dict(options), where="options")
    values = {**read_mapping(file), **options}
    return kind.parse(values, where=f"{file} and options" if options else file)


def read_mapping(file: str) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        SettingsError: if the file cannot be read or holds something else.
    """
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        what = type(error).__name__ if isinstance(error, OSError | UnicodeError) else str(error)
        raise SettingsError(f"cannot be read ({what})", where=file, right="give a YAML file") from None
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise SettingsError(f"is no YAML ({error})", where=file, right="give lines of the form name: value") from None
    if not isinstance(values or {}, dict):
        raise SettingsError(f"holds a {type(values).__name__}", where=file, right="give lines of the form name: value")
    return dict(values or {})
