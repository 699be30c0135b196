"""The only place that imports Ray: pretraining on Ray Train, search on Ray Tune, the farm of sampling actors."""

from raygen.cluster.farm.actor import ActorKind, FarmActor, SamplingActor, sampling_kind
from raygen.cluster.farm.driver import Farm
from raygen.cluster.farm.size import PoolSize, pool_size
from raygen.cluster.session import session
from raygen.cluster.train.pretrain import Workers, pretrain, training_workers

__all__ = [
    "ActorKind",
    "Farm",
    "FarmActor",
    "PoolSize",
    "SamplingActor",
    "Workers",
    "pool_size",
    "pretrain",
    "sampling_kind",
    "session",
    "training_workers",
]
