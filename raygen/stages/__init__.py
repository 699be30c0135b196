"""The stages as functions, each with the configuration of its command: pretrain, reference, sample, tune, gallery.

``sample`` with ``local`` and everything about networks and data work without Ray; the others import it when they run.
"""

from raygen.stages.facts import about
from raygen.stages.pipelines import gallery, pipeline
from raygen.stages.pretraining import pretrain
from raygen.stages.references import reference
from raygen.stages.requests import read_profile, reference_source
from raygen.stages.sampling import Sampled, plan, sample, trace
from raygen.stages.tuning import tune

__all__ = [
    "Sampled",
    "about",
    "gallery",
    "pipeline",
    "plan",
    "pretrain",
    "read_profile",
    "reference",
    "reference_source",
    "sample",
    "trace",
    "tune",
]
