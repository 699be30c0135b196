"""One worker's training run in plain PyTorch: the generative gradient, then the discriminative one."""

from raygen.training.check import check_images
from raygen.training.evaluate import Evaluation, evaluate, log_normaliser_of
from raygen.training.folder import TrainingFolder
from raygen.training.loop import OnEpoch, train
from raygen.training.reports import EpochReport, TrainingResult
from raygen.training.schedule import Phase, learning_rate, phase_of, switch_epoch
from raygen.training.scoring import Scorer, make_ready, make_scorer
from raygen.training.settings import Objective, Precision, TrainingSettings
from raygen.training.state import State
from raygen.training.summary import final_evaluation
from raygen.training.task import Opener, TrainingTask, run_task

__all__ = [
    "EpochReport",
    "Evaluation",
    "Objective",
    "OnEpoch",
    "Opener",
    "Phase",
    "Precision",
    "Scorer",
    "State",
    "TrainingFolder",
    "TrainingResult",
    "TrainingSettings",
    "TrainingTask",
    "check_images",
    "evaluate",
    "final_evaluation",
    "learning_rate",
    "log_normaliser_of",
    "make_ready",
    "make_scorer",
    "phase_of",
    "run_task",
    "switch_epoch",
    "train",
]
