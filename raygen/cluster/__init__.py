"""The only place that imports Ray: pretraining on Ray Train, search on Ray Tune, the farm of sampling actors."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
