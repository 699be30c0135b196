"""A run of many units: planned, worked through here or on a farm, its cost estimated, and its status read."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
