"""Exponential tilting: references, the tilted density, the tilt's strength, and the losses that train with it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
