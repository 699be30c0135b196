"""What a training run reports: each epoch, and what it found in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from raygen.training.evaluation import Evaluation
from raygen.training.schedule import Phase


@dataclass(frozen=True)
class EpochReport:
    """One epoch; equal on every worker but for the times.

    Attributes:
        epoch: how many epochs are done, from 1.
        phase: the gradient that it followed.
        loss: mean over the global batches.
        test: on the test images, in float32; calibrated with log Z_c as the epoch's batches gave it.
        ess: effective sample size as a part of the batch, mean over classes and batches, 0 to 1.
        ess_by_class: the same for each class.
        largest_weight_by_class: largest importance weight of a batch, mean over batches, 0 to 1.
        absent: classes without a labelled image in a batch, mean over batches; generatively they learn nothing there.
        learning_rate: of the last iteration.
        skipped: training images that could not be read.
        images_per_second: training images of all workers, without the evaluation.
        seconds: of the epoch, with the evaluation.
    """

    epoch: int
    phase: Phase
    loss: float
    test: Evaluation
    ess: float
    ess_by_class: tuple[float, ...]
    largest_weight_by_class: tuple[float, ...]
    absent: float
    learning_rate: float
    skipped: int
    images_per_second: float
    seconds: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the report of plain values, as ``dataclasses.asdict`` and JSON give them."""
        classes = {name: tuple(values[name]) for name in ("ess_by_class", "largest_weight_by_class")}
        return cls(**{**values, **classes, "test": Evaluation(**values["test"])})


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run found, beside the weights in the module.

    Attributes:
        history: one report for each epoch.
        test: on the test images, in float32, with log Z_c of the whole training set.
        log_z: log Z_c on the training images, one for each class.
        biases: a_c = log rho_c - log Z_c, one for each class; minus infinity for a class without training images.
    """

    history: tuple[EpochReport, ...]
    test: Evaluation
    log_z: tuple[float, ...]
    biases: tuple[float, ...]
