"""What each ``raygen bench NAME`` can be asked for; without torch and Ray, so that ``--help`` starts at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raygen.data import DataSettings
from raygen.networks import InputSize, NetworkSettings
from raygen.sampling import SamplingSettings
from raygen.settings import Settings
from raygen.training import Precision

_CORES = "CPU threads; if not set, all cores of the process"
_RANDOM = 'weight file, or "random": the speed is the same'
_ROUNDS = "counted rounds; their median is shown"


class SamplerBenchSettings(NetworkSettings):
    """What ``raygen bench sampler`` measures."""

    weights: str | None = Field("random", description=_RANDOM)
    batch: int = Field(256, ge=1, description="chains")
    rounds: int = Field(9, ge=1, description=_ROUNDS)
    threads: int | None = Field(None, ge=1, description=_CORES)
    device: Literal["cpu", "cuda"] = Field("cpu", description="where it runs")
    compile: bool = Field(False, description="also try torch.compile, on CUDA with CUDA graphs")
    memory: bool = Field(True, description="also measure peak memory, in fresh processes")


class KernelsBenchSettings(NetworkSettings):
    """What ``raygen bench kernels`` measures."""

    chains: int = Field(64, ge=4, description="chains of the default kernel, spread over the classes")
    paper_chains: int = Field(64, ge=2, description="chains of the paper's kernel, which takes far longer")
    trajectories: int = Field(
        300, ge=8, description="trajectories of the default kernel after warm-up, for the stationary level"
    )
    paper_trajectories: int = Field(20, ge=2, description="trajectories of the paper's kernel at stationarity")
    threads: int = Field(1, ge=1, description="CPU threads")
    seed: int = Field(0, ge=0, description="seed of all random numbers")


class FarmBenchSettings(Settings):
    """What ``raygen bench farm`` measures."""

    units: int = Field(20, ge=2, description="units that two actors, and two bare processes, sample")
    draws: int = Field(50, ge=1, description="draws of each")
    rounds: int = Field(9, ge=0, description=f"{_ROUNDS}; 0 leaves them out")
    idle_units: int = Field(10_000, ge=0, description="units without work, and then ten times as many; 0 leaves it out")
    virtual_actors: int = Field(5_000, ge=1, description="actors of the simulation")
    virtual_units: int = Field(1_000_000, ge=0, description="units of the simulation; 0 leaves it out")


class NodesBenchSettings(NetworkSettings):
    """What ``raygen bench nodes`` measures."""

    network: str = Field(
        "lenet,squeezenet1_0,alexnet,vgg11,resnet18", description="one network, or several with commas between"
    )
    weights: str | None = Field("random", description=_RANDOM)
    layers: tuple[str, ...] | None = Field(
        None, description="layers; if not set, the first two, the middle and the last convolution"
    )
    batch: int = Field(8, ge=1, description="chains of one gradient, with the network cut and with the whole one")
    nodes: int = Field(64, ge=1, description="nodes of one layer that are packed; as many as there are, at most")
    chains: int = Field(8, ge=1, description="chains of each packed node")
    packed: int = Field(128, ge=1, description="chains that share a pass when packed; then all of them in one pass")
    seconds: float = Field(
        0.3, gt=0, description="seconds of one measurement, about; at least one gradient of each node"
    )
    rounds: int = Field(5, ge=1, description=_ROUNDS)
    threads: int | None = Field(None, ge=1, description=_CORES)
    device: Literal["cpu", "cuda"] = Field("cpu", description="where it runs")


class LegibilityBenchSettings(NetworkSettings, DataSettings, SamplingSettings):
    """What ``raygen bench legibility`` makes and measures; the data are the natural images."""

    nodes: str = Field(description='nodes, as raygen sample takes them: "classifier.1:ostrich,orange"')
    second_network: str = Field(description="network that judges the images, by name, as network")
    out: str = Field(min_length=1, description="folder for the table and for a sheet of each kind of images")
    second_weights: str | None = Field(None, description="its weights, as weights")
    second_input_size: InputSize = Field(None, description="side of its square input, or HEIGHTxWIDTH, in pixels")
    second_mean: tuple[float, ...] | None = Field(
        None, description="mean of each of its input channels, for pixels from 0 to 1"
    )
    second_std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="divisor of each of its input channels, for pixels from 0 to 1"
    )
    gradients_each: int | None = Field(
        None, ge=1, description="gradients of each image of the optimiser; if not set, as many as a chain's"
    )
    questions: int = Field(
        10, ge=1, description="strongly and weakly exciting natural images that a node's score is asked with, each"
    )
    threads: int | None = Field(None, ge=1, description=_CORES)
    device: Literal["cpu", "cuda"] = Field("cpu", description="where it runs")

    def second(self) -> NetworkSettings:
        """Return what is said of the second network."""
        prefix = "second_"
        given = {name: getattr(self, name) for name in self.model_fields_set if name.startswith(prefix)}
        return NetworkSettings.parse(
            {name.removeprefix(prefix): value for name, value in given.items()}, where="the second network"
        )


class TrainingBenchSettings(DataSettings):
    """What ``raygen bench training`` measures."""

    rounds: int = Field(9, ge=1, description=_ROUNDS)
    alexnet: bool = Field(True, description="also measure steps of AlexNet, which take some seconds each on a CPU")
    ray: bool = Field(True, description="also measure whole runs on Ray Train, which take some minutes")
    run_epochs: int = Field(60, ge=3, description="epochs of each of these runs; the first third does not count")
    run_rounds: int = Field(3, ge=1, description="counted rounds of these runs; their median is shown")


class Table1Settings(Settings):
    """What ``raygen bench table1`` trains."""

    data: str = Field(description="folder of MNIST, as torchvision keeps it: MNIST/raw/train-images-idx3-ubyte, ...")
    seeds: int = Field(3, ge=1, description="runs of each objective, of seeds 0, 1, ...")
    epochs: int = Field(25, ge=1, description="passes over the training images; the paper's 25")
    precision: Precision = Field(
        "bfloat16", description="precision of the network's arithmetic; sums over images are float32 always"
    )
    shuffle: bool = Field(
        False, description="draw a new order of the images each epoch, which the paper's solver did not"
    )
    processes: int | None = Field(None, ge=1, description="runs at once; if not set, one for each core")
    limit: int | None = Field(None, ge=1, description="number of images to use of each split, the first ones")
    out: str | None = Field(
        None, min_length=1, description="folder that keeps the runs, so that a stopped one continues"
    )
