"""What a training run can be asked for; the defaults are the paper's MNIST recipe (Caffe's LeNet)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from raygen.settings import Settings

Precision = Literal["float32", "bfloat16"]


class TrainingSettings(Settings):
    """How to train: so many epochs of the generative gradient, then the discriminative one."""

    epochs: int = Field(25, ge=1, description="passes over the training images")
    generative_epochs: int = Field(
        16, ge=0, description="how many of the epochs, the first ones, follow the generative gradient"
    )
    batch_size: int = Field(64, ge=1, description="images of the global batch, over all workers")
    learning_rate: float = Field(0.01, gt=0, description="rate of the first iteration")
    refine_rate: float = Field(
        0.003, gt=0, description="rate of the first discriminative iteration after generative ones"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the gradient")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay, of biases too")
    bias_rate_factor: float = Field(2.0, gt=0, description="rate of the biases over that of the weights")
    decay_gamma: float = Field(1e-4, ge=0, description="g of the rate's decay (1 + g iteration)^-power")
    decay_power: float = Field(0.75, ge=0, description="power of the rate's decay (1 + g iteration)^-power")
    precision: Precision = Field(
        "float32", description="of the network's arithmetic; sums over images are float32 always"
    )

    @field_validator("generative_epochs")
    @classmethod
    def _within_epochs(cls, generative: int, info: ValidationInfo) -> int:
        epochs = info.data.get("epochs")
        if epochs is not None and generative > epochs:
            raise ValueError(f"give at most the {epochs} of epochs")
        return generative
