"""What a training run tells."""

from __future__ import annotations

from dataclasses import dataclass

from raygen.training.evaluate import Evaluation
from raygen.training.schedule import Phase


@dataclass(frozen=True)
class EpochReport:
    """One epoch; equal on every worker but for the times.

    Attributes:
        epoch: how many epochs are done, from 1.
        phase: the gradient that it followed.
        loss: mean over the global batches.
        test_error: part of the test images given a wrong class by softmax_c f_c(x), 0 to 1.
        test_error_calibrated: the same by softmax_c(f_c(x) + a_c), with log Z_c as the epoch's batches gave it.
        ess: effective sample size as a part of the batch, mean over classes and batches, 0 to 1.
        images_per_second: training images of all workers, without the evaluation.
        seconds: of the epoch, with the evaluation.
    """

    epoch: int
    phase: Phase
    loss: float
    test_error: float
    test_error_calibrated: float
    ess: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run found, beside the weights in the module.

    Attributes:
        history: one report for each epoch.
        test: on the test images, in float32.
        log_z: log Z_c on the training images, one for each class.
        biases: a_c = log rho_c - log Z_c, one for each class; minus infinity for a class without training images.
    """

    history: tuple[EpochReport, ...]
    test: Evaluation
    log_z: tuple[float, ...]
    biases: tuple[float, ...]
