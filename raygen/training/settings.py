"""What a training run can be asked for; the defaults are the paper's MNIST recipe (Caffe's LeNet)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from raygen.settings import Group, Settings

Precision = Literal["float32", "tf32", "bfloat16"]
Objective = Literal["generative-then-discriminative", "generative", "discriminative", "blend"]

_GENERATIVE_PART = 16 / 25
"""Of the epochs, where nothing is said: 16 of 25 on MNIST, 45 of 70 on ImageNet (paper, section 4)."""


class TrainingSettings(Settings):
    """How to train: which gradient in which epoch, and Caffe's stochastic gradient descent."""

    group: ClassVar[Group] = Group.TRAINING

    objective: Annotated[Objective, Group.MAIN] = Field(
        "generative-then-discriminative", description="which gradient the epochs follow"
    )
    epochs: Annotated[int, Group.MAIN] = Field(25, ge=1, description="passes over the training images")
    generative_epochs: int | None = Field(
        None, ge=0, description="generative epochs before the discriminative ones; if not set, 16 of 25 as in the paper"
    )
    switch_ess: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="switch to discriminative epochs once an epoch's mean ESS is under this part of the batch",
    )
    blend: float = Field(0.5, ge=0, le=1, description="weight of the generative loss in objective blend")
    batch_size: int = Field(64, ge=1, description="images of the global batch, over all workers")
    micro_batch: int | None = Field(
        None, ge=1, description="images that a worker computes at once; if not set, its whole share of the batch"
    )
    learning_rate: Annotated[float, Group.RATE] = Field(0.01, gt=0, description="learning rate of the first iteration")
    refine_rate: Annotated[float, Group.RATE] = Field(
        0.003, gt=0, description="rate of the first discriminative iteration after generative ones"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the gradient")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay")
    bias_rate_factor: Annotated[float, Group.RATE] = Field(
        2.0, gt=0, description="rate of the biases over that of the weights"
    )
    bias_decay_factor: float = Field(1.0, ge=0, description="weight decay of the biases over that of the weights")
    decay: Annotated[Literal["inv", "step"], Group.RATE] = Field(
        "inv", description="how the rate falls, by Caffe's policies"
    )
    decay_gamma: Annotated[float, Group.RATE] = Field(
        1e-4, ge=0, description="policy inv: g in rate (1 + g iteration)^-power"
    )
    decay_power: Annotated[float, Group.RATE] = Field(0.75, ge=0, description="policy inv: power")
    decay_factor: Annotated[float, Group.RATE] = Field(
        0.1, gt=0, le=1, description="policy step: factor on the rate, every decay_epochs epochs"
    )
    decay_epochs: Annotated[int, Group.RATE] = Field(
        20, ge=1, description="policy step: epochs from one step to the next"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the global gradient; longer ones are cut")
    precision: Precision = Field(
        "float32", description="precision of the network's arithmetic; sums over images are float32 always"
    )

    @field_validator("generative_epochs")
    @classmethod
    def _within_epochs(cls, generative: int | None, info: ValidationInfo) -> int | None:
        epochs = info.data.get("epochs")
        if epochs is not None and generative is not None and generative > epochs:
            raise ValueError(f"give at most the {epochs} of epochs")
        return generative

    @property
    def planned_switch(self) -> int:
        """The epoch, from 0, from which on the gradient is discriminative, whatever the ESS; ``epochs`` if never."""
        if self.objective == "discriminative":
            return 0
        if self.objective != "generative-then-discriminative":
            return self.epochs
        asked = self.generative_epochs
        return round(_GENERATIVE_PART * self.epochs) if asked is None else asked

    @property
    def weight_before_switch(self) -> float:
        """Weight of the generative loss in the epochs before the switch."""
        return self.blend if self.objective == "blend" else 1.0
