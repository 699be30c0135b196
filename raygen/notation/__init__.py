"""A node of a network and how it is written: values without torch, which store, networks and gallery share."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
