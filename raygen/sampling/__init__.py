"""The chains of one unit: from nodes to rows of the store. Runs without Ray."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
