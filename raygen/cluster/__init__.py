"""The only place that imports Ray: pretraining on Ray Train, search on Ray Tune, the farm of sampling actors."""

from raygen.cluster.actor import ActorKind, FarmActor, SamplingActor, sampling_kind
from raygen.cluster.farm import Farm
from raygen.cluster.pool import PoolSize, pool_size
from raygen.cluster.pretrain import Workers, pretrain, training_workers
from raygen.cluster.session import session

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
