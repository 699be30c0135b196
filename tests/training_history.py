"""Reports of epochs as a training gives them, for what shows them."""

from raygen.training import EpochReport, Evaluation


def report(epoch, phase="generative", **changed):
    values = {
        "epoch": epoch,
        "phase": phase,
        "loss": 2.0 / epoch,
        "test": Evaluation(0.3 / epoch, 1.5 / epoch, 0.05 / epoch, 0.2 / epoch, 1.25 / epoch, 0.04 / epoch),
        "ess": 0.5,
        "ess_by_class": (0.25, 0.5, 0.75),
        "largest_weight_by_class": (0.125, 0.0625, 0.25),
        "absent": 0.0,
        "learning_rate": 0.01,
        "skipped": 0,
        "images_per_second": 1000.0,
        "seconds": 4.0,
    }
    return EpochReport(**{**values, **changed})
