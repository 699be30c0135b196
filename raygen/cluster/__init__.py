"""The only place that imports Ray: pretraining on Ray Train, search on Ray Tune, the farm of sampling actors."""

from raygen.cluster.farm import Farm, farm_actors
from raygen.cluster.pretrain import TrainingTask, pretrain, train_workers
from raygen.cluster.session import session

__all__ = ["Farm", "TrainingTask", "farm_actors", "pretrain", "session", "train_workers"]
