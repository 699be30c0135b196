"""One worker's training run in plain PyTorch: the generative gradient, then the discriminative one."""

from raygen.training.evaluate import Evaluation, evaluate, log_normaliser_of
from raygen.training.folder import TrainingFolder
from raygen.training.loop import OnEpoch, State, train
from raygen.training.reports import EpochReport, TrainingResult
from raygen.training.schedule import Phase, learning_rate, phase_of
from raygen.training.scoring import Scorer, make_scorer
from raygen.training.settings import Precision, TrainingSettings

__all__ = [
    "EpochReport",
    "Evaluation",
    "OnEpoch",
    "Phase",
    "Precision",
    "Scorer",
    "State",
    "TrainingFolder",
    "TrainingResult",
    "TrainingSettings",
    "evaluate",
    "learning_rate",
    "log_normaliser_of",
    "make_scorer",
    "phase_of",
    "train",
]
